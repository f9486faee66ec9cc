use std::net::Ipv4Addr;
use std::path::Path;

use parking_lot::Mutex;

use super::*;
use crate::settings::Settings;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

type Kicks = Arc<Mutex<Vec<(Uid, Option<String>)>>>;

struct Fixture {
    auth: Auth,
    kicks: Kicks,
    folder: tempfile::TempDir,
}

impl Fixture {
    async fn new() -> Self {
        let (store, folder) = Store::fresh().await;
        let kicks = Kicks::default();
        let auth = open(&store, folder.path(), &kicks).await;
        auth.register(uid("alice"), "correct horse").await.unwrap();
        Fixture {
            auth,
            kicks,
            folder,
        }
    }

    /// The same accounts, as another process opens them.
    async fn reopen(&self) -> Auth {
        open(&self.auth.store, self.folder.path(), &self.kicks).await
    }
}

async fn open(store: &Store, folder: &Path, kicks: &Kicks) -> Auth {
    let kicks = Arc::clone(kicks);
    let kick: Kick = Arc::new(move |uid, which| {
        let login = match which {
            Sessions::All => None,
            Sessions::OfLogin(login) => Some(login.to_owned()),
            Sessions::OfDevice(device) => panic!("nobody has asked to end {device}"),
        };
        kicks.lock().push((uid.clone(), login));
        true
    });
    let mut settings = Settings::defaults();
    settings.data_dir = folder.to_owned();
    Auth::open(store.clone(), &settings, kick).await.unwrap()
}

fn uid(name: &str) -> Uid {
    name.parse().unwrap()
}

fn is_revoked(auth: &Auth, identity: &Identity) -> bool {
    let login = identity.login.as_deref();
    auth.is_revoked(&identity.uid, login, identity.password_set_at)
}

#[track_caller]
fn assert_refused<T>(result: Result<T, AuthError>) {
    let error = result.err().expect("it was let in");
    assert!(matches!(error, AuthError::Refused), "{error:?}");
}

#[tokio::test]
async fn an_account_is_made_once() {
    let fixture = Fixture::new().await;
    let auth = &fixture.auth;
    assert!(matches!(
        auth.register(uid("alice"), "another one").await,
        Err(AuthError::Exists)
    ));
    assert!(matches!(
        auth.register(uid("bob"), "short").await,
        Err(AuthError::Invalid(_))
    ));
    assert_refused(auth.login(&uid("alice"), "wrong password", HERE).await);
    assert_refused(auth.login(&uid("nobody"), "correct horse", HERE).await);
}

#[tokio::test]
async fn connect_takes_a_password_or_the_users_own_token() {
    let fixture = Fixture::new().await;
    let auth = &fixture.auth;
    let token = auth
        .login(&uid("alice"), "correct horse", HERE)
        .await
        .unwrap()
        .access;
    let by_password = auth
        .authenticate("alice", b"correct horse", HERE)
        .await
        .unwrap();
    assert_eq!((by_password.login, by_password.expires_at), (None, None));
    let by_token = auth
        .authenticate("alice", token.as_bytes(), HERE)
        .await
        .unwrap();
    assert!(by_token.login.is_some() && by_token.expires_at.is_some() && !by_token.admin);
    for (username, password) in [
        ("bob", token.as_bytes()),
        ("bob", b"correct horse"),
        ("alice", b"correct hors\xff"),
        ("alice", b""),
        ("", b"correct horse"),
    ] {
        assert_refused(auth.authenticate(username, password, HERE).await);
    }
}

#[tokio::test]
async fn a_refresh_token_works_once_and_its_reuse_ends_the_login() {
    let fixture = Fixture::new().await;
    let (auth, kicks) = (&fixture.auth, &fixture.kicks);
    let first = auth
        .login(&uid("alice"), "correct horse", HERE)
        .await
        .unwrap();
    let second = auth.refresh(&first.refresh).await.unwrap();
    auth.verify_access(&first.access).unwrap();
    assert!(kicks.lock().is_empty());

    assert_refused(auth.refresh(&first.refresh).await);
    assert_refused(auth.verify_access(&second.access));
    assert_refused(auth.refresh(&second.refresh).await);
    assert_eq!(kicks.lock().len(), 1);
    for nonsense in ["", ".", "x.y", "nonsense"] {
        assert_refused(auth.refresh(nonsense).await);
    }
}

#[tokio::test]
async fn logging_out_ends_that_login_only_and_survives_a_restart() {
    let fixture = Fixture::new().await;
    let auth = &fixture.auth;
    let phone = auth
        .login(&uid("alice"), "correct horse", HERE)
        .await
        .unwrap();
    let laptop = auth
        .login(&uid("alice"), "correct horse", HERE)
        .await
        .unwrap();
    let identity = auth.verify_access(&phone.access).unwrap();
    auth.logout(&uid("alice"), identity.login.as_deref().unwrap())
        .await
        .unwrap();

    assert_eq!(
        *fixture.kicks.lock(),
        [(uid("alice"), identity.login.clone())]
    );
    assert!(is_revoked(auth, &identity));
    for auth in [auth, &fixture.reopen().await] {
        assert_refused(auth.verify_access(&phone.access));
        assert_refused(auth.refresh(&phone.refresh).await);
        auth.verify_access(&laptop.access).unwrap();
    }
}

#[tokio::test]
async fn a_new_password_ends_everything_that_the_old_one_opened() {
    let fixture = Fixture::new().await;
    let auth = &fixture.auth;
    let alice = uid("alice");
    let tokens = auth.login(&alice, "correct horse", HERE).await.unwrap();
    assert_refused(
        auth.change_password(&alice, "wrong horse", "battery staple", HERE)
            .await,
    );
    let short = auth
        .change_password(&alice, "correct horse", "short", HERE)
        .await;
    assert!(matches!(short, Err(AuthError::Invalid(_))));
    auth.verify_access(&tokens.access).unwrap();

    auth.change_password(&alice, "correct horse", "battery staple", HERE)
        .await
        .unwrap();
    assert_refused(auth.verify_access(&tokens.access));
    assert_refused(auth.refresh(&tokens.refresh).await);
    assert_refused(auth.login(&alice, "correct horse", HERE).await);
    auth.login(&alice, "battery staple", HERE).await.unwrap();
    assert_eq!(*fixture.kicks.lock(), [(alice, None)]);
}

#[tokio::test]
async fn a_login_ended_by_another_process_is_learnt() {
    let fixture = Fixture::new().await;
    let auth = &fixture.auth;
    let tokens = auth
        .login(&uid("alice"), "correct horse", HERE)
        .await
        .unwrap();
    let command_line = fixture.reopen().await;
    command_line
        .set_password(&uid("alice"), "battery staple", "root")
        .await
        .unwrap();
    fixture.kicks.lock().clear();
    auth.load_revocations().await.unwrap();
    auth.load_revocations().await.unwrap();
    assert_refused(auth.verify_access(&tokens.access));
    // The login's sessions, and then all those of the password.
    assert_eq!(fixture.kicks.lock().len(), 2);
}

#[tokio::test]
async fn a_password_checked_before_its_change_does_not_count_after_it() {
    let fixture = Fixture::new().await;
    let (auth, alice) = (&fixture.auth, uid("alice"));
    let mut password = "correct horse".to_owned();
    // Faster than the clock ticks, perhaps.
    for round in 0..3 {
        let before = auth
            .verify_password(&alice, password.as_bytes(), HERE)
            .await;
        let before = before.unwrap();
        assert!(!is_revoked(auth, &before));
        let next = format!("battery staple {round}");
        auth.change_password(&alice, &password, &next, HERE)
            .await
            .unwrap();
        password = next;
        assert!(is_revoked(auth, &before));
    }
    let after = auth
        .verify_password(&alice, password.as_bytes(), HERE)
        .await;
    assert!(!is_revoked(auth, &after.unwrap()));
    // Its own change is no news to it later.
    fixture.kicks.lock().clear();
    auth.load_revocations().await.unwrap();
    assert!(fixture.kicks.lock().is_empty());
}

#[tokio::test]
async fn a_password_changed_by_another_process_ends_the_sessions_that_it_opened() {
    let fixture = Fixture::new().await;
    let (auth, alice) = (&fixture.auth, uid("alice"));
    let command_line = fixture.reopen().await;
    auth.register(uid("bob"), "correct horse").await.unwrap();
    auth.load_revocations().await.unwrap();
    assert!(
        fixture.kicks.lock().is_empty(),
        "a new account is no change"
    );
    let old = auth
        .verify_password(&alice, b"correct horse", HERE)
        .await
        .unwrap();

    command_line
        .set_password(&alice, "battery staple", "root")
        .await
        .unwrap();
    fixture.kicks.lock().clear();
    let new = auth.verify_password(&alice, b"battery staple", HERE).await;
    for _ in 0..2 {
        auth.load_revocations().await.unwrap();
    }
    assert_eq!(*fixture.kicks.lock(), [(alice, None)]);
    assert!(is_revoked(auth, &old) && !is_revoked(auth, &new.unwrap()));
}

#[tokio::test]
async fn of_two_changes_of_one_password_one_counts() {
    let fixture = Fixture::new().await;
    let (auth, alice) = (&fixture.auth, uid("alice"));
    let (one, other) = tokio::join!(
        auth.change_password(&alice, "correct horse", "battery staple", HERE),
        auth.change_password(&alice, "correct horse", "wrong horse", HERE),
    );
    assert!(one.is_ok() != other.is_ok());
    let password = if one.is_ok() {
        "battery staple"
    } else {
        "wrong horse"
    };
    auth.login(&alice, password, HERE).await.unwrap();
}

/// Its failures end with the right password only when the time has come to look at it.
#[tokio::test]
async fn wrong_passwords_make_the_right_one_wait() {
    let fixture = Fixture::new().await;
    let (auth, alice) = (&fixture.auth, uid("alice"));
    let token = auth
        .login(&alice, "correct horse", HERE)
        .await
        .unwrap()
        .access;
    // Through all doors together.
    assert_refused(auth.login(&alice, "wrong horse", HERE).await);
    assert_refused(auth.authenticate("alice", b"wrong horse", HERE).await);
    let changed = auth.change_password(&alice, "wrong horse", "battery staple", HERE);
    assert_refused(changed.await);
    assert_refused(auth.login(&alice, "", HERE).await);
    assert_refused(auth.authenticate("alice", b"\xff", HERE).await);

    let password = auth.authenticate("alice", b"correct horse", HERE).await;
    assert!(matches!(password, Err(AuthError::TooManyFailures(_))));
    let changed = auth.change_password(&alice, "correct horse", "battery staple", HERE);
    assert!(matches!(
        changed.await,
        Err(AuthError::TooManyFailures(TooManyFailures(wait))) if wait <= Duration::from_secs(1)
    ));
    auth.authenticate("alice", token.as_bytes(), HERE)
        .await
        .expect("tokens are not concerned");
    let elsewhere = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
    auth.login(&alice, "correct horse", elsewhere)
        .await
        .expect("other addresses are not concerned");
}

#[tokio::test]
async fn a_certificate_needs_an_account_and_no_password() {
    let fixture = Fixture::new().await;
    let auth = &fixture.auth;
    let alice = auth.trust(&uid("alice")).await.unwrap();
    assert_eq!((&alice.login, alice.admin), (&None, false));
    auth.add_user(uid("root"), "correct horse", Role::Admin)
        .await
        .unwrap();
    assert!(auth.trust(&uid("root")).await.unwrap().admin);
    assert_refused(auth.trust(&uid("nobody")).await);
    auth.set_password(&uid("alice"), "battery staple", "root")
        .await
        .unwrap();
    assert!(!is_revoked(auth, &alice));
}

#[tokio::test]
async fn what_was_ended_long_ago_is_in_the_database() {
    let fixture = Fixture::new().await;
    let auth = &fixture.auth;
    let (alice, nobody) = (uid("alice"), uid("nobody"));
    let by_password = auth.authenticate("alice", b"correct horse", HERE).await;
    let first = by_password.unwrap().password_set_at;
    let shown = || vec![(&alice, first), (&alice, None), (&nobody, None)];
    assert_eq!(auth.ended(shown()).await.unwrap(), [false, false, true]);
    auth.set_password(&alice, "battery staple", "root")
        .await
        .unwrap();
    assert_eq!(auth.ended(shown()).await.unwrap(), [true, false, true]);
    auth.delete_user(&alice, "root").await.unwrap();
    assert_eq!(auth.ended(shown()).await.unwrap(), [true, true, true]);
}
