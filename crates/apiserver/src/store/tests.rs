use serde_json::json;

use super::*;

fn key(name: &str) -> Key {
    Key::new("/configmaps", "default", name)
}

fn object(name: &str, data: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "default"}, "data": {"k": data}})
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let one = store.put(key("a"), Expect::Absent, object("a", "1")).await.unwrap();
    let two = store.put(key("a"), Expect::Revision(one.revision), object("a", "2")).await.unwrap();
    let gone = store.put(key("b"), Expect::Absent, object("b", "1")).await.unwrap();
    let removed = store.remove(key("b"), gone.revision).await.unwrap();
    drop(store);
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.revision(), removed.revision);
    let list = store.list("/configmaps", None);
    assert_eq!(list.objects.len(), 1);
    assert_eq!(list.objects[0].value, two.value);
    assert!(matches!(store.watch("/configmaps", one.revision), Err(Expired::Old { .. })));
}

#[tokio::test]
async fn of_two_writers_with_one_expectation_one_loses() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let first = store.put(key("a"), Expect::Absent, object("a", "1")).await.unwrap();
    let expect = Expect::Revision(first.revision);
    let (left, right) = tokio::join!(
        store.put(key("a"), expect, object("a", "left")),
        store.put(key("a"), expect, object("a", "right")),
    );
    assert!(left.is_ok());
    assert!(matches!(right, Err(WriteError::Changed)));
    let again = store.put(key("a"), Expect::Absent, object("a", "x")).await;
    assert!(matches!(again, Err(WriteError::Exists)));
}

#[tokio::test]
async fn watches_replay_and_lists_look_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let start = store.revision();
    let one = store.put(key("a"), Expect::Absent, object("a", "1")).await.unwrap();
    let two = store.put(key("a"), Expect::Revision(one.revision), object("a", "2")).await.unwrap();
    let three = store.remove(key("a"), two.revision).await.unwrap();
    let mut watch = store.watch("/configmaps", start).unwrap();
    let events = watch.next().await.unwrap();
    let seen: Vec<_> = events.iter().map(|e| (e.change, e.revision)).collect();
    let expected = [
        (Change::Added, one.revision),
        (Change::Modified, two.revision),
        (Change::Deleted, three.revision),
    ];
    assert_eq!(seen, expected);
    let past = store.list_at("/configmaps", Some("default"), one.revision).unwrap();
    assert_eq!(past.objects[0].value, one.value);
    assert!(store.list_at("/configmaps", None, start).unwrap().objects.is_empty());
    assert!(matches!(
        store.list_at("/configmaps", None, three.revision + 9),
        Err(Expired::Future { .. })
    ));
}

/// Where the child of the next test keeps its store.
const CHILD_FOLDER: &str = "STORE_TEST_FOLDER";

/// Writes until it is killed, and says what was acknowledged. Only the next test runs it.
#[tokio::test]
#[ignore = "a child process of the test below"]
async fn writes_until_killed() {
    let folder = std::env::var(CHILD_FOLDER).unwrap();
    let store = Store::open_with(Path::new(&folder), Flush::Never).unwrap();
    for number in 0.. {
        let writes = (0..4).map(|lane| {
            let name = format!("{number}-{lane}");
            let value = object(&name, "x");
            store.put(key(&name), Expect::Absent, value)
        });
        for stored in futures::future::join_all(writes).await {
            println!("acknowledged {}", stored.unwrap().key.name);
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_it_acknowledged() {
    use std::io::{BufRead, BufReader};
    let folder = tempfile::tempdir().unwrap();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::tests::writes_until_killed", "--ignored", "--nocapture"])
        .env(CHILD_FOLDER, folder.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let acknowledged: Vec<String> = lines
        .map_while(Result::ok)
        .filter_map(|line| line.split_once("acknowledged ").map(|(_, name)| name.to_owned()))
        .take(200)
        .collect();
    // SIGKILL: nothing of the process runs after this.
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(acknowledged.len(), 200);
    let store = Store::open(folder.path()).unwrap();
    let missing: Vec<_> =
        acknowledged.iter().filter(|name| store.get(&key(name)).is_none()).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
