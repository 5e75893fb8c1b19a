//! Reads HBA lines. Owns the grammar; a line with an error is skipped with a warning, as in PgBouncer, so that it can
//! only refuse clients. Files of names are read by the caller's function.

use super::names::HbaNames;
use super::tokens::{HbaToken, HbaTokens};
use super::{AddressRange, HbaMethod, HbaRule, HbaRules, MAX_FILE_BYTES, RecordType};
use crate::auth::ident::IdentMap;
use crate::config::{AuthType, LdapOptions, PAM_NEEDS};
use crate::net::interfaces::{InterfaceAddress, IpNetwork};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

/// Maximum number of rules; further lines are skipped.
const MAX_RULES: usize = 10_000;
/// Maximum nesting depth of files of names.
const MAX_INCLUDE_DEPTH: usize = 8;

/// An HBA file and what its lines refer to.
pub struct HbaFile<'a> {
    /// Its path, from which relative paths of included files start.
    pub path: &'a str,
    /// Its text.
    pub text: &'a str,
    /// The maps that `map=` can name.
    pub ident: &'a IdentMap,
    /// Reads an included file.
    pub load: &'a dyn Fn(&Path) -> Result<String, String>,
    /// The addresses of this host, for `samehost` and `samenet`.
    pub interfaces: &'a dyn Fn() -> Result<Vec<InterfaceAddress>, String>,
}

impl HbaFile<'_> {
    /// Reads all lines.
    pub fn rules(&self) -> HbaRules {
        let mut found = HbaRules::default();
        for (at, text) in self.text.lines().enumerate() {
            let line = at + 1;
            let in_file = |reason: String| format!("{}: hba line {line}: {reason}", self.path);
            match self.rule(line, text) {
                Ok(None) => {}
                Ok(Some(_)) if found.rules.len() >= MAX_RULES => {
                    found.warnings.push(in_file(format!("more than {MAX_RULES} rules; the rest is skipped")));
                    break;
                }
                Ok(Some(rule)) => {
                    if let AddressRange::Network(network) = &rule.addresses
                        && network.has_bits_outside_mask()
                    {
                        let IpNetwork { address, mask } = network;
                        let reason =
                            format!("address does not match mask: {address} / {mask}; it matches no client");
                        found.warnings.push(in_file(reason));
                    }
                    found.rules.push(rule);
                }
                Err(reason) => found
                    .warnings
                    .push(format!("{}; could not parse hba config line {line}", in_file(reason))),
            }
        }
        found
    }

    fn rule(&self, line: usize, text: &str) -> Result<Option<HbaRule>, String> {
        let mut tokens = HbaTokens::new(text)?;
        if *tokens.current() == HbaToken::End {
            return Ok(None);
        }
        let record = tokens.bare_word().and_then(RecordType::of).ok_or("unknown type")?;
        tokens.advance()?;
        let databases = self.names(&mut tokens)?;
        let users = self.names(&mut tokens)?;
        let addresses = match record {
            RecordType::Local => AddressRange::All,
            _ => self.addresses(&mut tokens)?,
        };
        let method = self.method(&mut tokens)?;
        match tokens.current() {
            HbaToken::End => Ok(Some(HbaRule { line, record, databases, users, addresses, method })),
            _ => Err("unsupported parameters".to_owned()),
        }
    }

    fn names(&self, tokens: &mut HbaTokens<'_>) -> Result<HbaNames, String> {
        let mut names = HbaNames::default();
        loop {
            self.add(tokens.current(), &mut names, Path::new(self.path), 0)?;
            tokens.advance()?;
            if !tokens.take_comma()? {
                return Ok(names);
            }
        }
    }

    /// Adds one word of a list in `file`.
    fn add(&self, token: &HbaToken, names: &mut HbaNames, file: &Path, depth: usize) -> Result<(), String> {
        match token {
            HbaToken::Word { text, is_quoted: true } => {
                names.add_name(text);
                Ok(())
            }
            HbaToken::Word { text, is_quoted: false } => match text.strip_prefix('@') {
                Some(included) => self.include(included, names, file, depth),
                None => names.add_word(text),
            },
            HbaToken::Comma | HbaToken::End => Err("a name is missing".to_owned()),
        }
    }

    /// Adds the names in a file, separated by spaces or commas.
    fn include(&self, name: &str, names: &mut HbaNames, from: &Path, depth: usize) -> Result<(), String> {
        if depth >= MAX_INCLUDE_DEPTH {
            return Err(format!("files of names are nested more than {MAX_INCLUDE_DEPTH} deep"));
        }
        let path = from.parent().unwrap_or_else(|| Path::new("")).join(name);
        let wrong = |reason: String| format!("cannot read names from {}: {reason}", path.display());
        let text = (self.load)(&path).map_err(wrong)?;
        if text.len() > MAX_FILE_BYTES {
            return Err(wrong(format!("larger than {MAX_FILE_BYTES} bytes")));
        }
        for line in text.lines() {
            let mut tokens = HbaTokens::new(line).map_err(wrong)?;
            while *tokens.current() != HbaToken::End {
                if *tokens.current() != HbaToken::Comma {
                    self.add(tokens.current(), names, &path, depth + 1)?;
                }
                tokens.advance().map_err(wrong)?;
            }
        }
        Ok(())
    }

    fn addresses(&self, tokens: &mut HbaTokens<'_>) -> Result<AddressRange, String> {
        let Some(word) = tokens.bare_word().map(str::to_owned) else {
            return Err("did not find address".to_owned());
        };
        tokens.advance()?;
        match word.as_str() {
            "all" => Ok(AddressRange::All),
            "samehost" => self.own_addresses(|own| IpNetwork::of_one(own.address)),
            "samenet" => self.own_addresses(|own| own.network),
            word => network(word, tokens).map(AddressRange::Network),
        }
    }

    fn own_addresses(&self, network: fn(InterfaceAddress) -> IpNetwork) -> Result<AddressRange, String> {
        let own =
            (self.interfaces)().map_err(|error| format!("cannot read this host's addresses: {error}"))?;
        Ok(AddressRange::OfThisHost(own.into_iter().map(network).collect()))
    }

    fn method(&self, tokens: &mut HbaTokens<'_>) -> Result<HbaMethod, String> {
        let Some(word) = tokens.bare_word().map(str::to_owned) else {
            return Err("the method is missing".to_owned());
        };
        if word == "ldap" {
            return LdapOptions::parse(tokens.take_rest()).map(|options| HbaMethod::Ldap(Arc::new(options)));
        }
        tokens.advance()?;
        let map = self.map(tokens)?;
        Ok(match word.as_str() {
            "trust" => HbaMethod::Trust,
            "reject" => HbaMethod::Reject,
            "md5" => HbaMethod::Md5,
            "scram-sha-256" => HbaMethod::ScramSha256,
            "password" => HbaMethod::Password,
            "peer" => HbaMethod::Peer { map },
            "cert" => HbaMethod::Cert { map },
            "server" => HbaMethod::Server,
            "pam" if AuthType::Pam.is_working() => HbaMethod::Pam,
            "pam" => return Err(format!("unsupported method: pam ({PAM_NEEDS})")),
            _ => return Err(format!("unsupported method: {word}")),
        })
    }

    /// `map=NAME`. As in PgBouncer, the map must exist, and methods without a system name ignore it.
    fn map(&self, tokens: &mut HbaTokens<'_>) -> Result<Option<String>, String> {
        let Some(word) = tokens.bare_word() else { return Ok(None) };
        let Some(map) = word.strip_prefix("map=").map(str::to_owned) else {
            return Err(format!("Ident map {word} is malformed. It is not in map=value format."));
        };
        if !self.ident.has_map(&map) {
            return Err(format!("Ident map {map} is not found in ident config file"));
        }
        tokens.advance()?;
        Ok(Some(map))
    }
}

fn network(word: &str, tokens: &mut HbaTokens<'_>) -> Result<IpNetwork, String> {
    let (address, bits) = match word.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (word, None),
    };
    let address: IpAddr = address.parse().map_err(|_| format!("failed to parse address - {address}"))?;
    let mask = match bits {
        Some(bits) => mask_of_bits(address, bits).ok_or("invalid mask")?,
        None => {
            let mask = tokens.bare_word().ok_or("did not find mask")?;
            let parsed = mask.parse().ok().filter(|mask: &IpAddr| mask.is_ipv4() == address.is_ipv4());
            let parsed = parsed.ok_or_else(|| format!("failed to parse mask: {mask}"))?;
            tokens.advance()?;
            parsed
        }
    };
    Ok(IpNetwork { address, mask })
}

/// The mask with this number of leading ones.
fn mask_of_bits(address: IpAddr, bits: &str) -> Option<IpAddr> {
    let bits: u32 = bits.bytes().all(|byte| byte.is_ascii_digit()).then(|| bits.parse().ok())??;
    match address {
        IpAddr::V4(_) => {
            let zeros = Ipv4Addr::BITS.checked_sub(bits)?;
            Some(IpAddr::V4(Ipv4Addr::from_bits(u32::MAX.checked_shl(zeros).unwrap_or(0))))
        }
        IpAddr::V6(_) => {
            let zeros = Ipv6Addr::BITS.checked_sub(bits)?;
            Some(IpAddr::V6(Ipv6Addr::from_bits(u128::MAX.checked_shl(zeros).unwrap_or(0))))
        }
    }
}
