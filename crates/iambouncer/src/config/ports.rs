//! The list of ports to listen on. Owns its syntax and its limits; one port is the usual case.

use super::value::SettingValue;

/// Maximum number of ports: each has a listener per address and worker, and a UNIX socket.
const MAX_PORTS: usize = 16;

/// Ports to listen on, at least one; 0 stands for one that the kernel chooses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortList(Vec<u16>);

impl PortList {
    /// The first port, which stands for all where only one can be shown.
    pub fn first(&self) -> u16 {
        self.0.first().copied().unwrap_or_default()
    }

    /// All ports, in the order of the setting.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        self.0.iter().copied()
    }

    /// True if the pooler listens on this port.
    pub fn contains(&self, port: u16) -> bool {
        self.0.contains(&port)
    }
}

impl SettingValue for PortList {
    type Literal = u16;
    fn of(literal: u16) -> Self {
        Self(vec![literal])
    }
    fn parse(text: &str) -> Result<Self, String> {
        let ports: Vec<u16> =
            text.split(',').map(|port| u16::parse(port.trim())).collect::<Result<_, String>>()?;
        if ports.len() > MAX_PORTS {
            return Err(format!("has more than {MAX_PORTS} ports"));
        }
        let is_repeated = |at: &usize| ports[*at] != 0 && ports[..*at].contains(&ports[*at]);
        if let Some(at) = (1..ports.len()).find(is_repeated) {
            return Err(format!("has the port {} twice", ports[at]));
        }
        Ok(Self(ports))
    }
    fn text(&self) -> String {
        self.0.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_separated_by_commas_and_distinct() {
        let list = PortList::parse("5432 ,6432").unwrap();
        assert_eq!((list.first(), list.contains(6432), list.contains(5433)), (5432, true, false));
        assert_eq!((list.text().as_str(), list.iter().count()), ("5432, 6432", 2));
        assert_eq!(PortList::parse("6432"), Ok(PortList::of(6432)));
        assert!(PortList::parse("0,0").is_ok());
        for faulty in ["", "6432,", "65536", "x", "6432 5432", "1,1"] {
            assert!(PortList::parse(faulty).is_err(), "{faulty}");
        }
        let many: Vec<String> = (1..=17).map(|port: u16| port.to_string()).collect();
        assert!(PortList::parse(&many.join(",")).is_err());
    }
}
