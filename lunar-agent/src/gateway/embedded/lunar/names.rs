//! The addresses of a provider: those given for its name, else those the host finds.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use super::{refusal::Refusal, wanted::normal};
use crate::gateway::outbound::Reason;

/// `HOST=ADDR[,ADDR…]`: what a name means to this gateway, whatever DNS says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// As it is to be written in `x-lunar-host`, without the port.
    pub name: String,
    /// In the order in which they are tried; none for a name that does not resolve.
    pub addresses: Vec<IpAddr>,
}

/// Why a text is no [`Given`].
#[derive(Debug, thiserror::Error)]
pub enum GivenError {
    /// There is no name before an equals sign.
    #[error("write HOST=ADDR[,ADDR…], or HOST= for a name that does not resolve")]
    Form,
    /// One of them cannot be read.
    #[error("{0:?} is not an IP address")]
    Address(String),
}

impl FromStr for Given {
    type Err = GivenError;

    fn from_str(text: &str) -> Result<Self, GivenError> {
        let (name, addresses) =
            text.split_once('=').filter(|(n, _)| !n.is_empty()).ok_or(GivenError::Form)?;
        let address = |text: &str| text.parse().map_err(|_| GivenError::Address(text.to_owned()));
        let each = addresses.split(',').filter(|_| !addresses.is_empty());
        Ok(Self { name: name.to_owned(), addresses: each.map(address).collect::<Result<_, _>>()? })
    }
}

/// Every name with given addresses, as [`normal`] has it.
#[derive(Debug)]
pub struct Names(BTreeMap<String, Vec<IpAddr>>);

impl Names {
    /// The last one given for a name counts.
    pub fn new(given: Vec<Given>) -> Self {
        Self(given.into_iter().map(|Given { name, addresses }| (normal(&name), addresses)).collect())
    }

    /// Where to connect for `name`, which is as [`normal`] has it; no address if it was given none.
    ///
    /// # Errors
    /// [`Refusal::Unresolved`], when the host does not find it.
    pub async fn resolve(&self, name: &str, port: u16) -> Result<Vec<SocketAddr>, Refusal> {
        if let Some(given) = self.0.get(name) {
            return Ok(given.iter().map(|ip| SocketAddr::new(*ip, port)).collect());
        }
        let found = tokio::net::lookup_host((name, port)).await;
        let reason = |error| Reason(&error).to_string();
        found
            .map(Iterator::collect)
            .map_err(|error| Refusal::Unresolved { name: name.to_owned(), reason: reason(error) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(text: &str) -> Result<(String, Vec<String>), String> {
        let Given { name, addresses } = text.parse().map_err(|e: GivenError| e.to_string())?;
        Ok((name, addresses.iter().map(ToString::to_string).collect()))
    }

    #[test]
    fn a_name_is_given_addresses_or_none() {
        let (name, addresses) = given("a.example=203.0.113.10,2001:db8::1").expect("two");
        assert_eq!(
            (name.as_str(), addresses),
            ("a.example", vec!["203.0.113.10".into(), "2001:db8::1".into()])
        );
        assert_eq!(given("b.example=").expect("none"), ("b.example".to_owned(), vec![]));
        for text in ["a.example", "=203.0.113.10", "a=b", "a=203.0.113.10,", "a=203.0.113.10:80"] {
            given(text).expect_err(text);
        }
    }

    #[tokio::test]
    async fn what_is_given_comes_before_what_the_host_finds() {
        let names =
            Names::new(["Localhost.=203.0.113.9", "none.example="].map(|t| t.parse().expect("given")).into());
        let found = names.resolve("localhost", 81).await.expect("given");
        assert_eq!(found, ["203.0.113.9:81".parse().expect("an address")]);
        assert_eq!(names.resolve("none.example", 80).await.expect("given"), []);
        // The hosts file has this one.
        let found = Names::new(Vec::new()).resolve("localhost", 81).await.expect("the host knows itself");
        assert!(found.iter().all(|a| a.ip().is_loopback() && a.port() == 81), "{found:?}");
    }
}
