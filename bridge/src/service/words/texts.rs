//! What of a command other people read as text.

use schema::v1::send::Content;
use schema::v1::up::Command;

/// The texts of a command that others get to see. Bytes and what only the caller sees are not among them.
pub(super) fn of(command: &mut Command) -> Vec<&mut String> {
    match command {
        Command::Send(send) => send.content.as_mut().map(of_content).unwrap_or_default(),
        Command::Edit(edit) => vec![&mut edit.text],
        Command::React(react) => vec![&mut react.emoji],
        Command::GroupCreate(create) => vec![&mut create.name],
        Command::GroupSet(set) => set.name.iter_mut().chain(&mut set.announcement).collect(),
        Command::GroupNickname(nickname) => vec![&mut nickname.nickname],
        Command::GroupJoin(join) => vec![&mut join.text],
        Command::ProfileSet(set) => set.name.iter_mut().chain(&mut set.about).collect(),
        Command::Presence(set) => set.text.iter_mut().collect(),
        Command::ContactRequest(request) => vec![&mut request.text],
        _ => Vec::new(),
    }
}

fn of_content(content: &mut Content) -> Vec<&mut String> {
    match content {
        Content::Text(text) => vec![text],
        Content::Body(_) => Vec::new(),
        Content::Media(media) => vec![&mut media.caption, &mut media.name],
        Content::Location(location) => vec![&mut location.name, &mut location.address],
        Content::Forward(forward) => vec![&mut forward.title],
    }
}
