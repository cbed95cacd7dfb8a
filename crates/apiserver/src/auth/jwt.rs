//! The keys that sign and verify service-account tokens, and what is written in such a token.
//!
//! Only RS256 is signed or accepted, and only the configured keys verify: no algorithm or key is
//! ever taken from the token itself. Lifetimes and bound objects are judged in [`super::tokens`].

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Why the keys of service-account tokens cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("the service-account signing key is not an RSA private key in PEM form")]
    Signing(#[source] jsonwebtoken::errors::Error),
    #[error("the service-account key file holds no public key in PEM form")]
    NoPublicKey,
    #[error("a key in the service-account key file is not an RSA public key")]
    NotRsa,
    #[error("read a key of the service-account key file")]
    Public(#[source] rustls_pki_types::pem::Error),
}

/// Keys of service-account tokens. Never printed.
pub struct Keys {
    issuer: String,
    signing: EncodingKey,
    verifying: Vec<Verifying>,
}

struct Verifying {
    id: String,
    key: DecodingKey,
    /// As published in the JSON web key set.
    public: Value,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// What a token says. Tokens of Secrets carry the `legacy_*` claims, all others `bound`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Claims {
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub aud: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exp: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iat: Option<i64>,
    pub iss: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub jti: String,
    #[serde(rename = "kubernetes.io", skip_serializing_if = "Option::is_none")]
    pub bound: Option<Bound>,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub legacy_namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub legacy_secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub legacy_name: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub legacy_uid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nbf: Option<i64>,
    pub sub: String,
}

/// The objects that a token is bound to: it dies with them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bound {
    pub namespace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    pub serviceaccount: Reference,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// An object by name and uid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reference {
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Audience::deserialize(deserializer)? {
        Audience::One(one) => vec![one],
        Audience::Many(many) => many,
    })
}

impl Keys {
    /// Reads the signing key and all verifying keys.
    ///
    /// # Errors
    /// When a key is missing, unreadable or not RSA.
    pub fn read(issuer: &str, signing_pem: &[u8], public_pem: &[u8]) -> Result<Self, KeyError> {
        let signing = EncodingKey::from_rsa_pem(signing_pem).map_err(KeyError::Signing)?;
        let verifying = SubjectPublicKeyInfoDer::pem_slice_iter(public_pem)
            .map(|der| Verifying::read(&der.map_err(KeyError::Public)?))
            .collect::<Result<Vec<_>, _>>()?;
        if verifying.is_empty() {
            return Err(KeyError::NoPublicKey);
        }
        Ok(Self { issuer: issuer.to_owned(), signing, verifying })
    }

    /// The issuer written into new tokens; also the audience of this server.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Signs a token.
    ///
    /// # Errors
    /// When the key cannot sign.
    pub fn sign(&self, claims: &Claims) -> Result<String, jsonwebtoken::errors::Error> {
        let mut header = Header::new(Algorithm::RS256);
        header.typ = None;
        header.kid = self.verifying.first().map(|key| key.id.clone());
        jsonwebtoken::encode(&header, claims, &self.signing)
    }

    /// The claims of a token that one of the keys signed. Nothing else is judged here.
    pub fn verify(&self, token: &str) -> Option<Claims> {
        let header = jsonwebtoken::decode_header(token).ok()?;
        if header.alg != Algorithm::RS256 {
            return None;
        }
        let mut validation = Validation::new(Algorithm::RS256);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let named = self.verifying.iter().filter(|key| header.kid.as_ref() == Some(&key.id));
        let others = self.verifying.iter().filter(|key| header.kid.as_ref() != Some(&key.id));
        named.chain(others).find_map(|key| {
            Some(jsonwebtoken::decode::<Claims>(token, &key.key, &validation).ok()?.claims)
        })
    }

    /// The JSON web key set, as published at `/openid/v1/jwks`.
    pub fn key_set(&self) -> Value {
        json!({"keys": self.verifying.iter().map(|key| key.public.clone()).collect::<Vec<_>>()})
    }
}

impl Verifying {
    fn read(der: &SubjectPublicKeyInfoDer<'_>) -> Result<Self, KeyError> {
        let (_, info) = SubjectPublicKeyInfo::from_der(der).map_err(|_| KeyError::NotRsa)?;
        let Ok(PublicKey::RSA(rsa)) = info.parsed() else { return Err(KeyError::NotRsa) };
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(der.as_ref()));
        let unsigned = |bytes: &[u8]| {
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            URL_SAFE_NO_PAD.encode(&bytes[zeros..])
        };
        let (n, e) = (unsigned(rsa.modulus), unsigned(rsa.exponent));
        let key = DecodingKey::from_rsa_components(&n, &e).map_err(|_| KeyError::NotRsa)?;
        let public = json!({"use": "sig", "kty": "RSA", "kid": id, "alg": "RS256", "n": n, "e": e});
        Ok(Self { id, key, public })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// One key pair for all tests of this crate: making RSA keys is slow.
    pub(in crate::auth) fn keys() -> Keys {
        static PAIR: std::sync::LazyLock<(String, String)> = std::sync::LazyLock::new(|| {
            let pair =
                rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)
                    .unwrap();
            (pair.serialize_pem(), pair.public_key_pem())
        });
        Keys::read("https://issuer.example", PAIR.0.as_bytes(), PAIR.1.as_bytes()).unwrap()
    }

    #[test]
    fn a_signed_token_verifies_and_a_changed_one_does_not() {
        let keys = keys();
        let claims = Claims {
            aud: vec!["a".to_owned()],
            exp: Some(1),
            iss: "https://issuer.example".to_owned(),
            sub: "system:serviceaccount:a:b".to_owned(),
            ..Claims::default()
        };
        let token = keys.sign(&claims).unwrap();
        assert_eq!(keys.verify(&token), Some(claims));
        let mut parts: Vec<&str> = token.split('.').collect();
        let forged = URL_SAFE_NO_PAD.encode(br#"{"iss":"https://issuer.example","sub":"root"}"#);
        parts[1] = &forged;
        assert_eq!(keys.verify(&parts.join(".")), None);
        assert_eq!(keys.verify("garbage"), None);
    }

    #[test]
    fn tokens_without_a_signature_or_signed_with_the_public_key_are_refused() {
        let keys = keys();
        let body = URL_SAFE_NO_PAD.encode(br#"{"iss":"https://issuer.example","sub":"root"}"#);
        let none = URL_SAFE_NO_PAD.encode(br#"{"alg":"none"}"#);
        assert_eq!(keys.verify(&format!("{none}.{body}.")), None);
        let public = keys.key_set()["keys"][0]["n"].as_str().unwrap().to_owned();
        let claims = Claims { sub: "root".to_owned(), ..Claims::default() };
        let hmac = jsonwebtoken::encode(
            &Header::new(Algorithm::HS256),
            &claims,
            &EncodingKey::from_secret(public.as_bytes()),
        )
        .unwrap();
        assert_eq!(keys.verify(&hmac), None);
    }
}
