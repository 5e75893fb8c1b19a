//! Addresses of this host's network interfaces. Owns their list at the moment of the call, and which addresses a network
//! contains; never watches for changes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr::NonNull;

/// Maximum number of addresses that are read; hosts of containers have hundreds.
const MAX_ADDRESSES: usize = 65_536;

/// An IP network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpNetwork {
    /// Its address.
    pub address: IpAddr,
    /// Its mask, of the same family.
    pub mask: IpAddr,
}

impl IpNetwork {
    /// The network that contains only this address.
    pub fn of_one(address: IpAddr) -> Self {
        let mask = match address {
            IpAddr::V4(_) => Ipv4Addr::from_bits(u32::MAX).into(),
            IpAddr::V6(_) => Ipv6Addr::from_bits(u128::MAX).into(),
        };
        Self { address, mask }
    }

    /// Never true if the network's address has bits outside its mask.
    pub fn contains(self, address: IpAddr) -> bool {
        masked(address, self.mask) == Some(self.address)
    }

    /// True if the network's address has bits outside its mask.
    pub fn has_bits_outside_mask(self) -> bool {
        !self.contains(self.address)
    }
}

/// `None` if the families differ.
fn masked(address: IpAddr, mask: IpAddr) -> Option<IpAddr> {
    match (address, mask) {
        (IpAddr::V4(address), IpAddr::V4(mask)) => Some((address & mask).into()),
        (IpAddr::V6(address), IpAddr::V6(mask)) => Some((address & mask).into()),
        _ => None,
    }
}

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The address.
    pub address: IpAddr,
    /// The network that the interface is connected to.
    pub network: IpNetwork,
}

impl InterfaceAddress {
    /// With the mask of its interface; without one, the address is alone in its network.
    pub fn new(address: IpAddr, mask: Option<IpAddr>) -> Self {
        let network = mask.and_then(|mask| Some(IpNetwork { address: masked(address, mask)?, mask }));
        Self { address, network: network.unwrap_or_else(|| IpNetwork::of_one(address)) }
    }
}

/// The IP addresses of this host's interfaces.
///
/// # Errors
/// As getifaddrs(3).
#[allow(unsafe_code, reason = "rustix has no getifaddrs")]
pub fn interface_addresses() -> io::Result<Vec<InterfaceAddress>> {
    let mut list = std::ptr::null_mut();
    // SAFETY: the call stores a list in the pointer, or fails.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found = Vec::new();
    let mut next = NonNull::new(list);
    while let Some(entry) = next
        && found.len() < MAX_ADDRESSES
    {
        // SAFETY: entries are valid until the list is freed, and their addresses are null or valid.
        let (address, mask) = unsafe {
            let entry = entry.as_ref();
            next = NonNull::new(entry.ifa_next);
            (ip_address(entry.ifa_addr), ip_address(entry.ifa_netmask))
        };
        found.extend(address.map(|address| InterfaceAddress::new(address, mask)));
    }
    // SAFETY: the list comes from getifaddrs, and nothing refers to it any more.
    unsafe { libc::freeifaddrs(list) };
    Ok(found)
}

/// # Safety
/// The pointer is null, or points to an address of the size that its family has.
#[allow(unsafe_code, reason = "the family says which structure it is")]
unsafe fn ip_address(address: *const libc::sockaddr) -> Option<IpAddr> {
    let address = NonNull::new(address.cast_mut())?;
    // SAFETY: by the caller; the structures may be unaligned.
    unsafe {
        match i32::from(address.read_unaligned().sa_family) {
            libc::AF_INET => {
                let found = address.cast::<libc::sockaddr_in>().read_unaligned();
                Some(Ipv4Addr::from(found.sin_addr.s_addr.to_ne_bytes()).into())
            }
            libc::AF_INET6 => {
                let found = address.cast::<libc::sockaddr_in6>().read_unaligned();
                Some(Ipv6Addr::from(found.sin6_addr.s6_addr).into())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_found_with_its_network() {
        let found = interface_addresses().unwrap();
        let loopback = found.iter().find(|found| found.address == IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap();
        assert!(loopback.network.contains("127.0.0.9".parse().unwrap()), "{loopback:?}");
        assert!(!loopback.network.contains("128.0.0.1".parse().unwrap()), "{loopback:?}");
    }

    #[test]
    fn a_network_contains_what_its_mask_selects() {
        let at = |address: &str, mask: Option<&str>| {
            InterfaceAddress::new(address.parse().unwrap(), mask.map(|mask| mask.parse().unwrap())).network
        };
        for (network, inside, outside) in [
            (at("10.1.2.3", Some("255.255.0.0")), "10.1.9.9", "10.2.2.3"),
            (at("10.1.2.3", None), "10.1.2.3", "10.1.2.4"),
            (at("10.1.2.3", Some("ffff::")), "10.1.2.3", "10.1.2.4"),
            (at("fd00::1", Some("ffff:ffff:ffff:ffff::")), "fd00::2", "fd00:0:0:1::1"),
            (at("fd00::1", None), "fd00::1", "10.1.2.3"),
        ] {
            assert!(network.contains(inside.parse().unwrap()), "{network:?}");
            assert!(!network.contains(outside.parse().unwrap()), "{network:?}");
        }
        let odd = IpNetwork { address: "10.0.0.1".parse().unwrap(), mask: "255.0.0.0".parse().unwrap() };
        assert!(odd.has_bits_outside_mask() && !odd.contains(odd.address));
    }
}
