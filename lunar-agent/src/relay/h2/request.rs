//! What a request asks for, and the heads that are sent on for it.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header::HOST, request::Parts};

use crate::relay::{
    http::{
        head::{ALLOW, Allow, Host, Limits, MAX_HEADERS, NotUnderstood, is_forged, is_origin_form},
        rewrite::Handover,
    },
    route,
};

/// How large a head may be whose name counts, as for HTTP/1: bytes are those of names and values, and 32 for each header
/// (RFC 9113 section 6.5.2). A larger one goes direct.
const LIMITS: Limits = Limits { bytes: 64 << 10, headers: MAX_HEADERS };
/// What a header counts besides its bytes.
const PER_HEADER: usize = 32;

/// What a request asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    /// The host that it is for.
    pub host: Host,
    /// What its `x-lunar-allow` says.
    pub allow: Allow,
}

impl<'a> From<&'a Asked> for route::Asked<'a> {
    fn from(asked: &'a Asked) -> Self {
        Self { host: &asked.host, allow: asked.allow }
    }
}

/// Reads the head of a request.
///
/// # Errors
/// If two readers may disagree about what it is for, or if it is too large.
pub fn read(head: &Parts) -> Result<Asked, NotUnderstood> {
    if head.headers.len() > LIMITS.headers {
        return Err(NotUnderstood::TooManyHeaders(LIMITS.headers));
    }
    let target = head.uri.path_and_query().map_or("", |target| target.as_str());
    if size(&head.uri, &head.headers) > LIMITS.bytes {
        return Err(NotUnderstood::TooLarge(LIMITS.bytes));
    }
    let all = head.method == Method::OPTIONS && target == "*";
    if head.method == Method::CONNECT || !all && !is_origin_form(target) {
        return Err(NotUnderstood::Target);
    }
    let mut hosts = head.headers.get_all(HOST).iter().map(HeaderValue::as_bytes);
    let authority = head.uri.authority().map(|authority| authority.as_str().as_bytes());
    // The authority has precedence, and some look at the header all the same (RFC 9113 section 8.3.1).
    let host = authority.or_else(|| hosts.next()).ok_or(NotUnderstood::HostCount)?;
    if !hosts.all(|other| authority.is_some() && other.eq_ignore_ascii_case(host)) {
        return Err(NotUnderstood::HostCount);
    }
    let (host, _port) = Host::read(host).map_err(NotUnderstood::Host)?;
    let mut allow = Allow::Unsaid;
    head.headers.get_all(ALLOW).iter().for_each(|value| allow.hear(value.as_bytes()));
    Ok(Asked { host, allow })
}

/// The size of a head as RFC 9113 section 6.5.2 counts, without the names of what is in no header, which are always the same.
pub fn size(uri: &Uri, headers: &HeaderMap) -> usize {
    let target = uri.path_and_query().map_or(0, |target| target.as_str().len());
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    let fields = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + PER_HEADER);
    target + authority + fields.sum::<usize>()
}

/// The head for the gateway.
pub fn for_gateway(head: &Parts, handover: &Handover<'_>) -> Request<()> {
    let mut headers = without(&head.headers, |name| name.as_str() == ALLOW || is_forged(name.as_str()));
    handover.each(|name, value| {
        // All are names, numbers and values that have been in headers. Without one, the gateway would say so.
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(HeaderName::from_static(name), value);
        }
    });
    request(head, headers)
}

/// The head for the provider: only `x-lunar-allow` is missing, which was for us.
pub fn for_provider(head: &Parts) -> Request<()> {
    request(head, without(&head.headers, |name| name.as_str() == ALLOW))
}

fn without(headers: &HeaderMap, dropped: impl Fn(&HeaderName) -> bool) -> HeaderMap {
    let mut kept = HeaderMap::with_capacity(headers.len() + 6);
    for (name, value) in headers.iter().filter(|(name, _)| !dropped(name)) {
        kept.append(name, value.clone());
    }
    kept
}

fn request(head: &Parts, headers: HeaderMap) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = head.uri.clone();
    *request.headers_mut() = headers;
    // `h2` sends no `:authority` where none came only for a request that says it came by HTTP/1.
    let version = if head.uri.authority().is_some() { Version::HTTP_2 } else { Version::HTTP_11 };
    *request.version_mut() = version;
    request
}

#[cfg(test)]
mod tests;
