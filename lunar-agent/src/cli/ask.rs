//! What the command line asks a running agent.

use super::{PlaceArgs, block_on, exit::Usage, output::say_line};
use crate::control::{Answer, Request, client};

/// Asks the agent; a refusal is an error.
///
/// # Errors
/// If there is no agent, or it refuses.
pub fn ask(place: PlaceArgs, request: &Request) -> anyhow::Result<Answer> {
    let socket = place.paths()?.socket;
    match block_on(client::ask(&socket, request))?? {
        Answer::Refused { done, reason, usage } => {
            done.iter().try_for_each(|line| say_line(line))?;
            Err(if usage { Usage(reason).into() } else { anyhow::anyhow!(reason) })
        }
        answer => Ok(answer),
    }
}

/// Asks the agent to do something, and prints what it has done.
///
/// # Errors
/// As [`ask`].
pub fn ask_to(place: PlaceArgs, request: &Request) -> anyhow::Result<()> {
    match ask(place, request)? {
        Answer::Done(lines) => lines.iter().try_for_each(|line| say_line(line)),
        _ => Err(another_question()),
    }
}

/// The error for an answer that does not fit the request.
pub fn another_question() -> anyhow::Error {
    anyhow::anyhow!("the agent answered another question")
}
