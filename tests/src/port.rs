//! TCP ports for servers that tests start.

use anyhow::{Result, bail};
use rand::Rng as _;
use std::fmt;
use std::net::TcpListener;
use std::ops::Range;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

/// Below those that the kernel gives to outgoing connections.
const PORTS: Range<u16> = 20_000..32_000;
/// Ports tried before giving up.
const TRIES: usize = 200;

/// A port on 127.0.0.1 that no other test on this machine gets while this one has it, whether its
/// server listens at the moment or not. The name of a socket in the abstract namespace stands for it:
/// that is free again when the process ends, however it does.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _reserved: UnixListener,
}

impl Port {
    /// A port on which nobody listens.
    pub fn reserve() -> Result<Port> {
        let mut random = rand::rng();
        for _ in 0..TRIES {
            if let Some(port) = Port::take(random.random_range(PORTS))? {
                return Ok(port);
            }
        }
        bail!("no free TCP port found in {TRIES} tries")
    }

    fn take(number: u16) -> Result<Option<Port>> {
        let name = SocketAddr::from_abstract_name(format!("pageserver-test-port-{number}"))?;
        let Ok(reserved) = UnixListener::bind_addr(&name) else {
            return Ok(None);
        };
        let free = TcpListener::bind(("127.0.0.1", number)).is_ok();
        Ok(free.then_some(Port {
            number,
            _reserved: reserved,
        }))
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_taken_until_it_is_dropped() {
        // Nobody else asks for these.
        let mut unused = (19_000..20_000).filter_map(|n| Port::take(n).unwrap());
        let port = unused.next().unwrap();
        let number = port.number();
        assert!(Port::take(number).unwrap().is_none());
        drop(port);
        assert!(Port::take(number).unwrap().is_some());
    }

    #[test]
    fn a_port_on_which_somebody_listens_is_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = listener.local_addr().unwrap().port();
        assert!(Port::take(number).unwrap().is_none());
    }

    #[test]
    fn reserved_ports_are_not_those_of_outgoing_connections() {
        let port = Port::reserve().unwrap();
        assert!(PORTS.contains(&port.number()));
    }
}
