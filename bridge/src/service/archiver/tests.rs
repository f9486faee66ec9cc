use std::path::Path;

use schema::{Uid, v1};

use super::*;
use crate::archive::bucket::Bucket;
use crate::content;
use crate::store::archives::{Order, between};
use crate::store::members::{self, Role};
use crate::store::operations::{Place, Revision};
use crate::store::views::{self, Range};
use crate::store::{conversations, messages, operations, search, sql};

const DAYS: u64 = 24 * 3600;
const ALL: Range = Range {
    after_seq: Some(0),
    before_seq: None,
    limit: 1000,
    bytes_max: usize::MAX,
};

struct Rig {
    archiver: Archiver,
    folder: tempfile::TempDir,
    places: Vec<Place>,
}

fn uid(name: &str) -> Uid {
    name.parse().unwrap()
}

impl Rig {
    /// alice and bob have written in turn in `g:g`, a message an hour, the last one ten days ago.
    async fn talk(count: u32) -> Rig {
        let (store, folder) = Store::fresh().await;
        let bucket = Bucket::folder(&folder.path().join("archive"), Duration::from_secs(5));
        let archive = Archive::new(bucket.unwrap(), 1 << 20);
        let store = store.with_archive(archive);
        let db = store.writer();
        conversations::add(db, 1, "g:g", 0).await.unwrap();
        let people = [uid("alice"), uid("bob")];
        let roles = people.each_ref().map(|uid| (uid, Role::Member));
        members::add(db, 1, 0, 0, roles).await.unwrap();
        let newest = SystemTime::now() - Duration::from_secs(10 * DAYS);
        let place = |seq: u32| Place {
            msg_id: MsgId::at(newest - Duration::from_secs(3600 * u64::from(count - seq))).0,
            conversation_id: 1,
            seq,
        };
        let places: Vec<Place> = (1..=count).map(place).collect();
        for place in &places {
            let text = v1::message::Content::Text(format!("text {}", place.seq));
            let sender = &people[place.seq as usize % 2];
            let new = messages::New {
                msg_id: MsgId(place.msg_id),
                conversation_id: 1,
                seq: place.seq,
                sender,
                sender_device: "phone",
                client_msg_id: &format!("c{}", place.seq),
                client_seq: place.seq.into(),
                kind: "text",
                content: &content::encode(&text, 0, &[]),
                expires_at: None,
                hidden_from: None,
            };
            messages::add(db, [new]).await.unwrap();
            let counted = "UPDATE conversations SET last_seq = last_seq + 1";
            sql::execute(db, counted, []).await.unwrap();
            members::count_sent(db, [(1, sender, 1)]).await.unwrap();
        }
        let ages = Ages {
            archive_after: Some(Duration::from_secs(8 * DAYS)),
            keep: None,
            interval: Duration::from_secs(3600),
        };
        Rig {
            archiver: Archiver::new(store, ages),
            folder,
            places,
        }
    }

    fn store(&self) -> &Store {
        &self.archiver.store
    }

    async fn candidate(&self) -> Candidate {
        let found = archives::candidates(self.store().reader(), 0, 1, 1).await;
        found.unwrap().remove(0)
    }

    async fn move_all(&self) -> usize {
        let moved = self.archiver.move_all(self.candidate().await).await;
        moved.unwrap()
    }

    async fn history(&self, name: &str) -> Vec<v1::Message> {
        let page = views::history(self.store(), &uid(name), 1, "g:g", 0, ALL).await;
        page.unwrap().messages
    }

    async fn unread(&self, name: &str) -> u32 {
        let found = views::membership(self.store().reader(), &uid(name), "g:g").await;
        found.unwrap().unwrap().unread
    }

    async fn count(&self, table: &str) -> usize {
        let text = format!("SELECT * FROM {table}");
        let rows = sql::query(self.store().reader(), &text, []).await;
        rows.unwrap().len()
    }

    /// The objects that there are.
    fn objects(&self) -> Vec<String> {
        fn walk(folder: &Path, found: &mut Vec<String>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, found);
                } else {
                    found.push(path.display().to_string());
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.folder.path().join("archive"), &mut found);
        found
    }

    /// What the objects hold, and how large it is.
    fn runs(&self) -> Vec<(archive::Run, usize)> {
        let runs = self.objects().into_iter().map(|path| {
            let bytes = std::fs::read(path).unwrap();
            crate::archive::file::decode(&bytes).unwrap()
        });
        runs.collect()
    }

    /// What stands in the objects, unpacked.
    fn written(&self) -> String {
        let texts = self.runs().into_iter().map(|(run, _)| format!("{run:?}"));
        texts.collect()
    }

    /// Makes another conversation like the first one.
    async fn copy_to(&self, id: i64) {
        let db = self.store().writer();
        let name = format!("g:{id}");
        conversations::add(db, id, &name, 0).await.unwrap();
        let seq =
            "UPDATE conversations SET last_seq = (SELECT last_seq FROM conversations WHERE id = 1)";
        self.sql(seq).await;
        self.sql(&format!(
            "INSERT INTO messages (msg_id, conversation_id, seq, sender, sender_device, client_seq, kind, content)
            SELECT msg_id + {id}, {id}, seq, sender, sender_device, client_seq, kind, content
            FROM messages WHERE conversation_id = 1"
        ))
        .await;
    }

    async fn sql(&self, text: &str) {
        sql::execute(self.store().writer(), text, []).await.unwrap();
    }

    /// Lets all announced and replaced objects be due.
    async fn tidy(&self) {
        self.sql("UPDATE archive_strays SET due_at = 0").await;
        self.archiver.tidy().await.unwrap();
        self.sql("UPDATE archive_strays SET due_at = 0").await;
        self.archiver.tidy().await.unwrap();
    }
}

/// Whoever reads gets the same from rows and from files, whichever way it is read.
#[tokio::test]
async fn history_is_the_same_before_and_after() {
    let rig = Rig::talk(1300).await;
    let db = rig.store().writer();
    let place = rig.places[9];
    operations::note_changes(db, &[place]).await.unwrap();
    let text = |text: &str| {
        let content = v1::message::Content::Text(text.to_owned());
        content::encode(&content, 0, &[])
    };
    let revision = |content: &str, at| Revision {
        content: text(content),
        at,
    };
    let (before, now) = (revision("text 10", 5000), revision("edited", 6000));
    operations::edit(db, place.msg_id, 1, &before, &now)
        .await
        .unwrap();
    for (name, emoji, at) in [("bob", "y", 2), ("alice", "x", 1), ("alice", "y", 3)] {
        let id = rig.places[0].msg_id;
        operations::react(db, &uid(name), id, emoji, at)
            .await
            .unwrap();
    }
    operations::hide(db, &uid("bob"), 1, [3, 500])
        .await
        .unwrap();
    operations::blank(db, Gone::Recalled, &[(rig.places[6], &[])])
        .await
        .unwrap();
    rig.sql("UPDATE messages SET hidden_from = 'bob' WHERE seq = 8")
        .await;
    let all = [rig.history("alice").await, rig.history("bob").await];
    assert_eq!((all[0].len(), all[1].len()), (1000, 1000));

    search::begin(db).await.unwrap();
    let entries = rig.places.iter().map(|place| search::Entry {
        msg_id: place.msg_id,
        tokens: "words".to_owned(),
    });
    let entries: Vec<search::Entry> = entries.collect();
    search::add(db, &entries).await.unwrap();

    assert_eq!(rig.move_all().await, 1250);
    let indexed = sql::query(db, "SELECT rowid FROM search_index", []).await;
    assert_eq!(indexed.unwrap().len(), 50, "search finds what is left");
    assert_eq!(
        (rig.count("messages").await, rig.count("archives").await),
        (50, 2)
    );
    assert_eq!(
        (rig.count("reactions").await, rig.count("revisions").await),
        (0, 0)
    );
    assert_eq!(rig.move_all().await, 0, "nothing is moved twice");
    assert_eq!(all[0], rig.history("alice").await);
    assert_eq!(all[1], rig.history("bob").await);

    // Pages of all sizes, both ways, across files and rows.
    for name in ["alice", "bob"] {
        let viewer = uid(name);
        for limit in [1, 7, 64, 300] {
            let mut forward: Vec<u32> = Vec::new();
            let mut after = 0;
            loop {
                let range = Range {
                    after_seq: Some(after),
                    limit,
                    ..ALL
                };
                let page = views::history(rig.store(), &viewer, 1, "g:g", 990, range).await;
                let page = page.unwrap();
                forward.extend(page.messages.iter().map(|message| message.seq));
                match page.messages.last() {
                    Some(last) if page.more => after = last.seq,
                    _ => break,
                }
            }
            assert_eq!(
                forward,
                (991..=1300).collect::<Vec<_>>(),
                "{name} by {limit}"
            );
            let mut backward: Vec<u32> = Vec::new();
            let mut before = None;
            loop {
                let range = Range {
                    after_seq: None,
                    before_seq: before,
                    limit,
                    ..ALL
                };
                let page = views::history(rig.store(), &viewer, 1, "g:g", 990, range).await;
                let page = page.unwrap();
                backward.extend(page.messages.iter().rev().map(|message| message.seq));
                match page.messages.first() {
                    Some(first) if page.more => before = Some(first.seq),
                    _ => break,
                }
            }
            backward.reverse();
            assert_eq!(backward, forward, "{name} by {limit}");
        }
    }
    let revisions = views::archived_revisions(rig.store(), 1, 10).await.unwrap();
    assert_eq!(revisions, [before]);
    let (bob, wanted) = (uid("bob"), [rig.places[1249].msg_id]);
    let found = archives::find(rig.store().reader(), &bob, &wanted).await;
    assert_eq!(found.unwrap()[0].place, rig.places[1249]);
    let hidden = rig.places[7].msg_id;
    for (name, count) in [("alice", 1), ("bob", 0), ("carol", 0)] {
        let found = archives::find(rig.store().reader(), &uid(name), &[hidden]).await;
        assert_eq!(found.unwrap().len(), count, "{name}");
    }
}

/// What was edited again and again, or has many reactions, takes the room of many messages.
#[tokio::test]
async fn what_hangs_on_messages_counts() {
    let rig = Rig::talk(200).await;
    for seq in [10, 11] {
        let id = rig.places[seq - 1].msg_id;
        rig.sql(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100)
            INSERT INTO revisions (msg_id, number, content, at) SELECT {id}, i, zeroblob(65536), i FROM n"
        ))
        .await;
        rig.sql(&format!(
            "UPDATE messages SET edited_at = 1 WHERE msg_id = {id}"
        ))
        .await;
    }
    let id = rig.places[20].msg_id;
    rig.sql(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)
        INSERT INTO reactions (msg_id, emoji, uid, at) SELECT {id}, 'x', 'user ' || i || '{}', i FROM n",
        "u".repeat(40)
    ))
    .await;
    let history = rig.history("bob").await;
    assert_eq!(rig.move_all().await, 150);
    let runs = rig.runs();
    let mut lengths: Vec<usize> = runs.iter().map(|(run, _)| run.messages.len()).collect();
    lengths.sort_unstable();
    assert_eq!(lengths, [1, 10, 10, 129]);
    let largest = runs.iter().map(|(_, size)| *size).max();
    assert!(largest.unwrap() < 8 * 1024 * 1024, "{largest:?}");
    assert_eq!(rig.history("bob").await, history);
    let revisions = views::archived_revisions(rig.store(), 1, 11).await.unwrap();
    assert_eq!(revisions.len(), 100);
}

/// What can't be written for one conversation does not keep the others from being looked at.
#[tokio::test]
async fn one_conversation_does_not_stop_the_others() {
    let rig = Rig::talk(200).await;
    rig.copy_to(2).await;
    let db = rig.store().reader();
    let candidate = rig.candidate().await;
    let run = archives::read_run(db, &candidate, 151, u64::MAX);
    let object = run.await.unwrap().unwrap().object(1);
    let (folder, _) = object.split_once('/').unwrap();
    let in_the_way = rig.folder.path().join("archive").join(folder);
    std::fs::write(&in_the_way, "no folder").unwrap();
    let mut after = i64::MIN;
    rig.archiver.walk(&mut after).await.unwrap();
    let of_both = async || {
        let text = "SELECT conversation_id FROM archives ORDER BY conversation_id";
        let rows = sql::query(rig.store().reader(), text, []).await.unwrap();
        let ids = rows.iter().map(|row| row.try_get("", "conversation_id"));
        ids.collect::<Result<Vec<i64>, _>>().unwrap()
    };
    assert_eq!((of_both().await, after), (vec![2], i64::MIN));
    std::fs::remove_file(&in_the_way).unwrap();
    rig.archiver.walk(&mut after).await.unwrap();
    assert_eq!(of_both().await, [1, 2]);
}

/// Where nothing can be written it is given up soon, and gone on with where it ended.
#[tokio::test]
async fn a_walk_goes_on_where_it_ended() {
    let rig = Rig::talk(200).await;
    for id in 2..=8 {
        rig.copy_to(id).await;
    }
    let folder = rig.folder.path().join("archive");
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::write(&folder, "no folder").unwrap();
    let mut after = i64::MIN;
    rig.archiver.walk(&mut after).await.unwrap_err();
    assert_eq!(after, FAILURES_MAX as i64);
    std::fs::remove_file(&folder).unwrap();
    rig.archiver.walk(&mut after).await.unwrap();
    assert_eq!(
        (rig.count("archives").await, after),
        (8 - FAILURES_MAX, i64::MIN)
    );
}

/// Unread counts are differences, and reading counts what is in files like rows.
#[tokio::test]
async fn unread_counts_stay_exact() {
    let rig = Rig::talk(300).await;
    let db = rig.store().writer();
    operations::hide(db, &uid("bob"), 1, [4]).await.unwrap();
    members::count_sent(db, [(1, &uid("bob"), 1)])
        .await
        .unwrap();
    assert_eq!(
        (rig.unread("alice").await, rig.unread("bob").await),
        (150, 149)
    );
    assert_eq!(rig.move_all().await, 250);
    assert_eq!(
        (rig.unread("alice").await, rig.unread("bob").await),
        (150, 149)
    );
    for (from, to, left) in [(0, 5, 148), (5, 100, 100), (100, 260, 20), (260, 300, 0)] {
        members::set_read(db, 1, &uid("bob"), (from, to), 300)
            .await
            .unwrap();
        assert_eq!(rig.unread("bob").await, left, "up to {to}");
    }
    // Who knows an older position counts nothing twice.
    let stale = members::set_read(db, 1, &uid("bob"), (100, 260), 300).await;
    assert!(matches!(stale, Err(store::Error::Stale)), "{stale:?}");
    assert_eq!(rig.unread("bob").await, 0);
}

/// Whatever happens to a message while its file is being written keeps it where it is.
#[tokio::test]
async fn what_changes_meanwhile_is_not_moved() {
    let rig = Rig::talk(200).await;
    let candidate = rig.candidate().await;
    let run = archives::read_run(rig.store().reader(), &candidate, 151, u64::MAX);
    let run = run.await.unwrap().unwrap();
    let object = run.object(1);
    rig.archiver.write(&object, &run.stored).await.unwrap();
    let db = rig.store().writer();
    operations::note_changes(db, &rig.places[10..11])
        .await
        .unwrap();
    let tx = rig.store().begin().await.unwrap();
    assert!(!archives::take(&tx, &run, &object, 1).await.unwrap());
    tx.rollback().await.unwrap();
    assert_eq!(rig.count("messages").await, 200);
    // What is left over by that, or by a crash, is swept.
    assert_eq!(rig.objects().len(), 1);
    rig.archiver.tidy().await.unwrap();
    assert_eq!(rig.objects().len(), 1, "it could still be named");
    rig.tidy().await;
    assert!(rig.objects().is_empty());
    // Nobody names it any more.
    let tx = rig.store().begin().await.unwrap();
    assert!(!archives::take(&tx, &run, &object, 1).await.unwrap());
    tx.rollback().await.unwrap();
    assert_eq!(rig.move_all().await, 150);
}

/// Messages that are to disappear are waited for, and so is what is young or little.
#[tokio::test]
async fn what_is_not_to_be_moved_stays() {
    let rig = Rig::talk(200).await;
    rig.sql("UPDATE messages SET expires_at = 9999999999999 WHERE seq = 60")
        .await;
    assert_eq!(rig.move_all().await, 59);
    assert_eq!(rig.move_all().await, 0);
    rig.sql("UPDATE messages SET state = 2 WHERE seq = 60")
        .await;
    assert_eq!(rig.move_all().await, 91);
    assert_eq!(rig.history("bob").await[59].gone, "expired");
    let young = Rig::talk(200).await;
    let archiver = Archiver::new(
        young.store().clone(),
        Ages {
            archive_after: Some(Duration::from_secs(30 * DAYS)),
            ..young.archiver.ages
        },
    );
    assert_eq!(archiver.move_all(young.candidate().await).await.unwrap(), 0);
    let few = Rig::talk(99).await;
    assert_eq!(few.move_all().await, 0);
}

/// A recalled message is gone at once for who reads, and soon from the object.
#[tokio::test]
async fn what_is_taken_away_leaves_the_objects() {
    let rig = Rig::talk(200).await;
    rig.move_all().await;
    assert!(rig.written().contains("text 17"));
    let tx = rig.store().begin().await.unwrap();
    let now = clock::millis(SystemTime::now());
    archives::take_away(&tx, rig.places[16], Gone::Recalled, now)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let history = rig.history("bob").await;
    assert_eq!(
        (history[16].gone.as_str(), &history[16].content),
        ("recalled", &None)
    );
    rig.tidy().await;
    assert_eq!(rig.history("bob").await, history);
    let written = rig.written();
    assert!(!written.contains("text 17\""), "{written}");
    assert!(written.contains("text 18"));
    assert_eq!(
        (rig.objects().len(), rig.count("archive_strays").await),
        (1, 0)
    );
}

/// Of a deleted account neither messages nor reactions are left in files.
#[tokio::test]
async fn an_account_is_erased_from_files() {
    let rig = Rig::talk(200).await;
    let db = rig.store().writer();
    for (name, emoji) in [("alice", "x"), ("bob", "x")] {
        let id = rig.places[0].msg_id;
        operations::react(db, &uid(name), id, emoji, 1)
            .await
            .unwrap();
    }
    rig.move_all().await;
    let tx = rig.store().begin().await.unwrap();
    let alice = uid("alice");
    let (key, taken) = archives::erase(&tx, &alice, (0, 0), 1)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((key, taken.len()), ((1, 150), 75));
    assert!(
        archives::erase(&tx, &alice, key, 1)
            .await
            .unwrap()
            .is_none()
    );
    let (_, taken) = archives::erase(&tx, &alice, (0, 0), 1)
        .await
        .unwrap()
        .unwrap();
    assert!(taken.is_empty(), "nothing is erased twice");
    tx.commit().await.unwrap();
    let check = async |when: &str| {
        let history = rig.history("bob").await;
        assert_eq!(history[1].gone, "deleted", "{when}");
        assert_eq!(history[1].sender_device, "", "{when}");
        assert_eq!(history[0].reactions[0].uids, ["bob"], "{when}");
        assert_eq!(history[0].reactions[0].count, 1, "{when}");
    };
    check("before the file is written anew").await;
    assert!(archives::holds(rig.store().reader(), &alice).await.unwrap());
    rig.tidy().await;
    check("after").await;
    assert!(!archives::holds(rig.store().reader(), &alice).await.unwrap());
    let written = rig.written();
    assert!(!written.contains("text 2\"") && !written.contains("\"c2\""));
    assert!(!written.contains("uid: \"alice\""), "{written}");
    assert!(written.contains("text 1\""));
}

/// A file that changes while it is written anew is written once more.
#[tokio::test]
async fn a_file_that_changes_meanwhile_is_written_again() {
    let rig = Rig::talk(200).await;
    rig.move_all().await;
    let take_away = async |seq: usize| {
        let tx = rig.store().begin().await.unwrap();
        archives::take_away(&tx, rig.places[seq - 1], Gone::Recalled, 1)
            .await
            .unwrap();
        tx.commit().await.unwrap();
    };
    take_away(5).await;
    let due = archives::due(rig.store().reader(), 1, 9).await.unwrap();
    take_away(6).await;
    rig.archiver.rewrite(&due[0]).await.unwrap();
    assert!(rig.written().contains("text 6\""));
    assert_eq!(rig.history("bob").await[5].gone, "recalled");
    // Somebody else with the same file comes too late.
    rig.archiver.rewrite(&due[0]).await.unwrap();
    rig.tidy().await;
    assert!(!rig.written().contains("text 6\""));
    assert_eq!(rig.objects().len(), 1);
}

/// What is too old is deleted for good, in files and rows; nothing of it is unread any more.
#[tokio::test]
async fn what_is_too_old_is_deleted_for_good() {
    let rig = Rig::talk(1300).await;
    rig.sql(
        "INSERT INTO attachments (conversation_id, seq, kind) SELECT 1, seq, 'file' FROM messages",
    )
    .await;
    let db = rig.store().writer();
    members::set_read(db, 1, &uid("alice"), (0, 1100), 1300)
        .await
        .unwrap();
    rig.move_all().await;
    let days = |days: u64| Ages {
        keep: Some(Duration::from_secs(days * DAYS)),
        ..rig.archiver.ages
    };
    // The last message is ten days old, and there is one an hour: by whole days, some hours more are kept.
    for (age, kept, files) in [
        (60, 1200..=1224, 2),
        (20, 240..=264, 1),
        (11, 24..=48, 0),
        (9, 0..=0, 0),
    ] {
        let archiver = Archiver::new(rig.store().clone(), days(age));
        archiver.drop_aged(&rig.candidate().await).await.unwrap();
        let history = rig.history("bob").await;
        let left = 1300 - history.first().map_or(1300, |message| message.seq - 1);
        assert!(kept.contains(&left), "{left} after {age} days");
        assert_eq!(rig.count("archives").await, files, "{age} days");
        assert_eq!(rig.count("attachments").await, left as usize, "{age} days");
        assert_eq!(rig.unread("bob").await, left.div_ceil(2), "{age} days");
        let alice = 200.min(left).div_ceil(2);
        assert!(rig.unread("alice").await.abs_diff(alice) <= 1, "{age} days");
        rig.tidy().await;
        assert_eq!(rig.objects().len(), files, "{age} days");
    }
    assert_eq!(
        (
            rig.count("messages").await,
            rig.count("archive_people").await
        ),
        (0, 0)
    );
    assert_eq!((rig.unread("alice").await, rig.unread("bob").await), (0, 0));
    assert!(
        between(db, 1, (0, 9999), Order::OldestFirst)
            .await
            .unwrap()
            .is_none()
    );
}
