//! The PAM module of rds-sim: posts user and token to the simulator's verifier, as RDS's own module posts
//! them to an agent on the same host.
//!
//! Owns: the conversation with PAM and one small HTTP request.
//! Never: makes the decision, depends on a crate, or truncates a token (`pam_exec` truncates at 511 bytes,
//! which is why this module exists). For development machines only.
#![allow(unsafe_code)] // PAM is a C interface; every use is below, with its reason

use std::ffi::{CStr, c_char, c_int, c_void};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

const PAM_SUCCESS: c_int = 0;
const PAM_SYSTEM_ERR: c_int = 4;
const PAM_AUTH_ERR: c_int = 7;
const PAM_AUTHINFO_UNAVAIL: c_int = 9;
/// The item type of the password (`PAM_AUTHTOK`).
const PAM_AUTHTOK: c_int = 6;

/// The simulator's port unless `port=` is given.
const DEFAULT_PORT: u16 = 1108;
/// Time limit for the simulator; a server process waits meanwhile.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How much of the response is read, in bytes: only the status line matters.
const MAX_STATUS_BYTES: usize = 64;
/// Maximum number of arguments in a line of /etc/pam.d.
const MAX_ARGUMENTS: c_int = 64;

unsafe extern "C" {
    // SAFETY of both: declared as in <security/pam_modules.h> and <security/pam_ext.h>; the symbols are provided by the
    // process that loads the module, which is linked with libpam.
    fn pam_get_user(handle: *mut c_void, user: *mut *const c_char, prompt: *const c_char) -> c_int;
    fn pam_get_authtok(
        handle: *mut c_void,
        item: c_int,
        token: *mut *const c_char,
        prompt: *const c_char,
    ) -> c_int;
}

/// PAM's entry point for authentication.
///
/// # Safety
/// PAM calls it with its handle and `count` valid C strings in `arguments`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pam_sm_authenticate(
    handle: *mut c_void,
    _flags: c_int,
    count: c_int,
    arguments: *const *const c_char,
) -> c_int {
    // SAFETY: PAM upholds the contract of this function.
    let Some(port) = (unsafe { port_argument(count, arguments) }) else {
        return PAM_SYSTEM_ERR;
    };
    let mut user = std::ptr::null();
    // SAFETY: `handle` is PAM's, `user` is valid for writing a pointer; a null prompt means the default.
    if unsafe { pam_get_user(handle, &raw mut user, std::ptr::null()) } != PAM_SUCCESS || user.is_null() {
        return PAM_AUTH_ERR;
    }
    let mut token = std::ptr::null();
    // SAFETY: as above.
    let found = unsafe { pam_get_authtok(handle, PAM_AUTHTOK, &raw mut token, std::ptr::null()) };
    if found != PAM_SUCCESS || token.is_null() {
        return PAM_AUTH_ERR;
    }
    // SAFETY: both are C strings owned by PAM that stay valid until the end of this call.
    let (user, token) = unsafe { (CStr::from_ptr(user), CStr::from_ptr(token)) };
    match authenticate(port, user.to_bytes(), token.to_bytes()) {
        Ok(true) => PAM_SUCCESS,
        Ok(false) => PAM_AUTH_ERR,
        Err(_unreachable) => PAM_AUTHINFO_UNAVAIL,
    }
}

/// PAM's entry point for session credentials; there are none.
///
/// # Safety
/// Does not use its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pam_sm_setcred(
    _handle: *mut c_void,
    _flags: c_int,
    _count: c_int,
    _arguments: *const *const c_char,
) -> c_int {
    PAM_SUCCESS
}

/// The value of `port=`; `None` if it is not a port.
///
/// # Safety
/// `arguments` points to `count` valid C strings.
unsafe fn port_argument(count: c_int, arguments: *const *const c_char) -> Option<u16> {
    let mut port = DEFAULT_PORT;
    for index in 0..count.clamp(0, MAX_ARGUMENTS) {
        // SAFETY: `index` is below `count`, and the caller guarantees valid strings.
        let argument = unsafe { CStr::from_ptr(*arguments.offset(index as isize)) };
        if let Some(value) = argument.to_str().ok().and_then(|text| text.strip_prefix("port=")) {
            port = value.parse().ok()?;
        }
    }
    Some(port)
}

/// Posts user and token. True if the response is 200.
fn authenticate(port: u16, user: &[u8], token: &[u8]) -> io::Result<bool> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let length = user.len() + 1 + token.len();
    write!(
        stream,
        "POST /authenticateRequest HTTP/1.1\r\nHost: rdsauthproxy:{port}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    )?;
    stream.write_all(user)?;
    stream.write_all(&[0])?;
    stream.write_all(token)?;
    let mut answer = Vec::new();
    stream.take(MAX_STATUS_BYTES as u64).read_to_end(&mut answer)?;
    Ok(answer.starts_with(b"HTTP/1.1 200 "))
}
