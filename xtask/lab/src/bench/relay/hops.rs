//! The hops that are compared, and how each is told to do the same: keep connections alive on both sides, add the gateway's
//! four headers to each request, log nothing, and use as many workers.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::{Lab, Spawn, bench::agent_binary};

/// What the gateway's own HAProxy is told of us.
const INTERCEPTOR: &str = "lunar-ebpf-interceptor/0.1.0";

/// A way from the client to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// The client calls the gateway itself
    NoHop,
    /// HAProxy, in the client's namespace
    Haproxy,
    /// nginx, in the client's namespace
    Nginx,
    /// The relay, to which the kernel redirects the client
    Relay,
}

impl Kind {
    /// For people.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::NoHop => "no hop",
            Self::Haproxy => "HAProxy",
            Self::Nginx => "nginx",
            Self::Relay => "relay",
        }
    }

    /// Where the client sends its requests.
    pub(super) const fn address(self) -> &'static str {
        match self {
            Self::NoHop => "192.0.2.2:8000",
            Self::Haproxy => "127.0.0.1:8001",
            Self::Nginx => "127.0.0.1:8002",
            Self::Relay => "203.0.113.10:80",
        }
    }
}

/// HAProxy, not started yet.
pub(super) fn haproxy(lab: &Lab, workers: usize) -> Result<Spawn> {
    let config = format!(
        "global\n\
         \x20   nbthread {workers}\n\
         \x20   maxconn 8000\n\
         defaults\n\
         \x20   mode http\n\
         \x20   timeout connect 5s\n\
         \x20   timeout client 60s\n\
         \x20   timeout server 60s\n\
         \x20   http-reuse always\n\
         frontend client\n\
         \x20   bind {}\n\
         \x20   http-request set-header x-lunar-host %[req.hdr(host)]\n\
         \x20   http-request set-header x-lunar-scheme http\n\
         \x20   http-request set-header x-lunar-req-id %[uuid()]\n\
         \x20   http-request set-header x-lunar-interceptor {INTERCEPTOR}\n\
         \x20   default_backend gateway\n\
         backend gateway\n\
         \x20   server gateway 192.0.2.2:8000\n",
        Kind::Haproxy.address()
    );
    let path = write(lab, "haproxy.cfg", &config)?;
    Ok(Spawn::new("haproxy").args(["-db", "-f"]).args([path]))
}

/// nginx, not started yet.
pub(super) fn nginx(lab: &Lab, workers: usize) -> Result<Spawn> {
    let dir = lab.dir().join("nginx");
    fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("    {what}_temp_path {}/{what};\n", dir.display()))
        .concat();
    let config = format!(
        "daemon off;\n\
         user root;\n\
         worker_processes {workers};\n\
         worker_rlimit_nofile 65536;\n\
         pid {dir}/pid;\n\
         error_log stderr crit;\n\
         events {{ worker_connections 8192; }}\n\
         http {{\n\
         {temporary}\
         \x20   access_log off;\n\
         \x20   keepalive_requests 1000000000;\n\
         \x20   keepalive_timeout 600s;\n\
         \x20   upstream gateway {{\n\
         \x20       server 192.0.2.2:8000;\n\
         \x20       keepalive 1024;\n\
         \x20       keepalive_requests 1000000000;\n\
         \x20   }}\n\
         \x20   server {{\n\
         \x20       listen {address} backlog=4096;\n\
         \x20       location / {{\n\
         \x20           proxy_pass http://gateway;\n\
         \x20           proxy_http_version 1.1;\n\
         \x20           proxy_set_header Connection \"\";\n\
         \x20           proxy_set_header Host $http_host;\n\
         \x20           proxy_set_header x-lunar-host $http_host;\n\
         \x20           proxy_set_header x-lunar-scheme http;\n\
         \x20           proxy_set_header x-lunar-req-id $request_id;\n\
         \x20           proxy_set_header x-lunar-interceptor {INTERCEPTOR};\n\
         \x20       }}\n\
         \x20   }}\n\
         }}\n",
        dir = dir.display(),
        address = Kind::Nginx.address(),
    );
    let path = write(lab, "nginx.conf", &config)?;
    Ok(Spawn::new("nginx").args(["-e", "stderr", "-p"]).args([dir]).args(["-c"]).args([path]))
}

/// The agent, not started yet, with the cgroup `target`; it starts the relay.
pub(super) fn agent(lab: &Lab, target: &crate::Cgroup) -> Result<Spawn> {
    // A health check that is kept from the CPU for a while must not open the breaker.
    let config = format!(
        "[gateway]\nendpoints = [\"198.51.100.2:8000\"]\nhandoff = \"lunar\"\n\
         [gateway.health]\ntimeout = \"5s\"\n\
         [[target]]\nname = \"app\"\ncgroup = {:?}\n\
         [paths]\nsocket = {:?}\npins = {:?}\n",
        target.path(),
        lab.dir().join("agent.sock"),
        lab.bpffs().join("relay"),
    );
    let path = write(lab, "agent.toml", &config)?;
    Ok(Spawn::new(agent_binary()?)
        .args(["run", "--config"])
        .args([path])
        .env("NO_COLOR", "1")
        .env("LUNAR_RELAY_SOCKET", lab.dir().join("relay.sock")))
}

fn write(lab: &Lab, name: &str, text: &str) -> Result<PathBuf> {
    let path = lab.dir().join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
