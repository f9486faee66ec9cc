//! `tidings user`

use std::io;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use schema::Uid;

use crate::auth::{Auth, AuthError, Sessions};
use crate::data_dir;
use crate::settings::Settings;
use crate::store::Store;
use crate::store::audit::OPERATOR;
use crate::store::users::{self, Role};

/// What can be done with accounts.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make an account
    Add {
        /// 1-64 of A-Z a-z 0-9 . _ -
        uid: Uid,
        #[command(flatten)]
        password: Password,
        /// Make the user an administrator
        #[arg(long)]
        admin: bool,
    },
    /// Replace a password, and end the user's logins; a running server notices within seconds
    Passwd {
        /// Whose
        uid: Uid,
        #[command(flatten)]
        password: Password,
    },
    /// Delete an account and what belongs to it; a running server notices within seconds, and erases the rest
    Delete {
        /// Whose
        uid: Uid,
    },
    /// List the accounts: uid, kind, role and time of creation, separated by tabs
    List,
}

/// Where a password comes from.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct Password {
    /// Read the password from the first line of the standard input
    #[arg(long)]
    password_stdin: bool,
    /// The password; other users of this machine may see it
    #[arg(long, value_name = "PASSWORD")]
    password: Option<String>,
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(…)")
    }
}

impl Password {
    fn read(self) -> anyhow::Result<String> {
        if let Some(password) = self.password {
            return Ok(password);
        }
        let mut line = String::new();
        io::stdin()
            .read_line(&mut line)
            .context("the password can't be read")?;
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }
}

impl Command {
    pub(super) async fn run(self, settings: &Settings) -> anyhow::Result<()> {
        let store = data_dir::open_store(settings).await?;
        match self {
            Command::Add {
                uid,
                password,
                admin,
            } => {
                let role = if admin { Role::Admin } else { Role::User };
                let auth = open_auth(store, settings).await?;
                auth.add_user(uid, &password.read()?, role).await?;
            }
            Command::Passwd { uid, password } => {
                let auth = open_auth(store, settings).await?;
                match auth.set_password(&uid, &password.read()?, OPERATOR).await {
                    Err(AuthError::Refused) => bail!("there is no user {uid}"),
                    changed => changed?,
                }
            }
            Command::Delete { uid } => {
                let auth = open_auth(store, settings).await?;
                match auth.delete_user(&uid, OPERATOR).await {
                    Err(AuthError::Refused) => bail!("there is no user {uid}"),
                    deleted => deleted?,
                }
            }
            Command::List => list(&store).await?,
        }
        Ok(())
    }
}

/// Accounts without sessions: those of a running server are its own to end.
async fn open_auth(store: Store, settings: &Settings) -> anyhow::Result<Auth> {
    let no_sessions = Arc::new(|_: &Uid, _: Sessions<'_>| false);
    Ok(Auth::open(store, settings, no_sessions).await?)
}

async fn list(store: &Store) -> anyhow::Result<()> {
    for user in users::list(store.reader()).await? {
        let created_at = humantime::format_rfc3339_seconds(user.created_at);
        println!(
            "{}\t{}\t{}\t{created_at}",
            user.uid,
            user.kind,
            user.role.as_str()
        );
    }
    Ok(())
}
