use std::sync::Arc;

use http::Request;
use serde_json::{Value, json};

use super::jwt::{Claims, Reference};
use super::tokens::Order;
use super::*;
use crate::store::{Expect, Key, Store};

struct Cluster {
    store: Store,
    authenticator: Authenticator,
    _folder: tempfile::TempDir,
}

async fn cluster(objects: &[Value]) -> Cluster {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    for object in objects {
        let group = object["apiVersion"].as_str().unwrap().split_once('/').map_or("", |g| g.0);
        let storage = format!("{group}/{}s", object["kind"].as_str().unwrap().to_lowercase());
        let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
        let key = Key::new(&storage, &text("namespace"), &text("name"));
        store.put(key, Expect::Absent, object.clone()).await.unwrap();
    }
    let tokens = Tokens::new(Arc::new(jwt::tests::keys()), store.clone());
    let authenticator = Authenticator::new(tokens, Authorizer::new(store.clone()));
    Cluster { store, authenticator, _folder: folder }
}

fn account() -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"namespace": "shop", "name": "cart", "uid": "u1"}})
}

fn pod() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "shop", "name": "cart-0", "uid": "p1"}})
}

fn order() -> Order {
    Order {
        audiences: vec!["https://issuer.example".to_owned()],
        lifetime: 3600,
        ..Order::default()
    }
}

fn reference(name: &str, uid: &str) -> Reference {
    Reference { name: name.to_owned(), uid: uid.to_owned() }
}

fn parts(headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder();
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut parts = request.body(()).unwrap().into_parts().0;
    let address = "127.0.0.1:1".parse().unwrap();
    parts.extensions.insert(Peer { address, certificates: Arc::default() });
    parts
}

fn with_token(token: &str) -> Parts {
    parts(&[("authorization", &format!("Bearer {token}"))])
}

#[tokio::test]
async fn without_credentials_a_request_is_anonymous_and_with_garbage_it_is_refused() {
    let cluster = cluster(&[]).await;
    let of = |parts: &Parts| cluster.authenticator.authenticate(parts);
    assert_eq!(of(&parts(&[])).unwrap(), User::anonymous());
    assert_eq!(of(&parts(&[("authorization", "Basic eDp5")])).unwrap(), User::anonymous());
    let refused = of(&with_token("garbage")).unwrap_err();
    assert_eq!((refused.code(), refused.message()), (401, "Unauthorized"));
}

#[tokio::test]
async fn a_bound_token_names_its_account_and_dies_with_its_pod() {
    let cluster = cluster(&[account(), pod()]).await;
    let order = Order { pod: Some(reference("cart-0", "p1")), ..order() };
    let tokens = cluster.authenticator.tokens();
    let token = tokens.issue("shop", &reference("cart", "u1"), &order).unwrap();
    let user = cluster.authenticator.authenticate(&with_token(&token)).unwrap();
    assert_eq!(user.name, "system:serviceaccount:shop:cart");
    assert_eq!(user.uid, "u1");
    assert_eq!(
        user.groups,
        ["system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated"]
    );
    assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["cart-0"]);

    let key = Key::new("/pods", "shop", "cart-0");
    let revision = cluster.store.get(&key).unwrap().revision;
    cluster.store.remove(key, revision).await.unwrap();
    assert!(cluster.authenticator.authenticate(&with_token(&token)).is_err());
}

#[tokio::test]
async fn tokens_of_another_uid_audience_issuer_or_time_are_refused() {
    let cluster = cluster(&[account()]).await;
    let tokens = cluster.authenticator.tokens();
    let verify = |token: &str| tokens.verify(token, &["https://issuer.example".to_owned()]);
    let good = tokens.issue("shop", &reference("cart", "u1"), &order()).unwrap();
    assert!(verify(&good).is_ok());
    let other_uid = tokens.issue("shop", &reference("cart", "u2"), &order()).unwrap();
    assert!(verify(&other_uid).is_err());
    let other_audience = Order { audiences: vec!["vault".to_owned()], ..order() };
    let token = tokens.issue("shop", &reference("cart", "u1"), &other_audience).unwrap();
    assert!(verify(&token).is_err());
    assert_eq!(tokens.verify(&token, &["vault".to_owned()]).unwrap().audiences, ["vault"]);
    let expired = Order { lifetime: -3600, ..order() };
    let token = tokens.issue("shop", &reference("cart", "u1"), &expired).unwrap();
    assert!(verify(&token).unwrap_err().contains("has expired"));
    let mut claims = tokens.keys().verify(&good).unwrap();
    claims.iss = "https://elsewhere.example".to_owned();
    assert!(verify(&tokens.keys().sign(&claims).unwrap()).is_err());
}

#[tokio::test]
async fn a_secrets_token_is_good_while_the_secret_holds_it() {
    use base64::Engine;
    let claims = Claims {
        iss: "kubernetes/serviceaccount".to_owned(),
        sub: "system:serviceaccount:shop:cart".to_owned(),
        legacy_namespace: "shop".to_owned(),
        legacy_secret: "cart-token".to_owned(),
        legacy_name: "cart".to_owned(),
        legacy_uid: "u1".to_owned(),
        ..Claims::default()
    };
    let token = jwt::tests::keys().sign(&claims).unwrap();
    let secret = json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"namespace": "shop", "name": "cart-token", "uid": "s1"},
        "data": {"token": base64::engine::general_purpose::STANDARD.encode(&token)}});
    let holding = cluster(&[account(), secret]).await;
    let user = holding.authenticator.authenticate(&with_token(&token)).unwrap();
    assert_eq!(user.name, "system:serviceaccount:shop:cart");
    let without = cluster(&[account()]).await;
    assert!(without.authenticator.authenticate(&with_token(&token)).is_err());
}

#[tokio::test]
async fn node_agents_hold_their_role_without_a_binding() {
    let cluster = cluster(&crate::rbac::bootstrap::objects()).await;
    let authorizer = Authorizer::new(cluster.store);
    let update = crate::request::RequestInfo {
        is_resource: true,
        verb: "patch".to_owned(),
        resource: "pods".to_owned(),
        subresource: "status".to_owned(),
        namespace: "shop".to_owned(),
        name: "web".to_owned(),
        ..Default::default()
    };
    let user = |name: &str, group: &str| User {
        name: name.to_owned(),
        groups: vec![group.to_owned()],
        ..User::default()
    };
    assert!(authorizer.authorize(&user("system:node:n1", "system:nodes"), &update).is_ok());
    assert!(authorizer.authorize(&user("jane", "system:nodes"), &update).is_err());
    assert!(authorizer.authorize(&user("system:node:n1", "dev"), &update).is_err());
}

#[tokio::test]
async fn impersonation_is_authorized_for_user_and_groups() {
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "actor"},
        "rules": [{"verbs": ["impersonate"], "apiGroups": [""], "resources": ["users"]}]});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding", "metadata": {"name": "actor"},
        "roleRef": {"kind": "ClusterRole", "name": "actor"},
        "subjects": [{"kind": "ServiceAccount", "namespace": "shop", "name": "cart"}]});
    let cluster = cluster(&[account(), role, binding]).await;
    let token =
        cluster.authenticator.tokens().issue("shop", &reference("cart", "u1"), &order()).unwrap();
    let bearer = format!("Bearer {token}");
    let ask = |headers: &[(&str, &str)]| {
        let mut all = vec![("authorization", bearer.as_str())];
        all.extend_from_slice(headers);
        cluster.authenticator.authenticate(&parts(&all)).map_err(|s| s.message().to_owned())
    };
    let jane = ask(&[("impersonate-user", "jane")]).unwrap();
    assert_eq!((jane.name.as_str(), jane.groups), ("jane", vec![AUTHENTICATED.to_owned()]));
    assert_eq!(
        ask(&[("impersonate-user", "jane"), ("impersonate-group", "system:masters")]),
        Err("groups \"system:masters\" is forbidden: User \"system:serviceaccount:shop:cart\" \
             cannot impersonate resource \"groups\" in API group \"\" at the cluster scope"
            .to_owned())
    );
}
