//! Calls of libpam. Owns one transaction: a password is given to the modules of the service, which accept or refuse
//! it. Blocks for as long as the modules do.
#![allow(unsafe_code, reason = "libpam is a C library; every use is in this file, with its reason")]

use crate::config::Secret;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;

/// The service, with PgBouncer's name: `/etc/pam.d/pgbouncer`.
const SERVICE: &CStr = c"pgbouncer";

// Constants of Linux-PAM, from <security/_pam_types.h>.
const PAM_SUCCESS: c_int = 0;
const PAM_BUF_ERR: c_int = 5;
const PAM_CONV_ERR: c_int = 19;
const PAM_RHOST: c_int = 4;
const PAM_PROMPT_ECHO_OFF: c_int = 1;
const PAM_ERROR_MSG: c_int = 3;
const PAM_TEXT_INFO: c_int = 4;
const PAM_SILENT: c_int = 0x8000;
const PAM_DISALLOW_NULL_AUTHTOK: c_int = 0x0001;
/// Maximum number of messages at a time (PAM_MAX_NUM_MSG).
const MAX_MESSAGES: c_int = 32;

/// `struct pam_message`.
#[repr(C)]
struct PamMessage {
    style: c_int,
    text: *const c_char,
}

/// `struct pam_response`.
#[repr(C)]
struct PamResponse {
    text: *mut c_char,
    code: c_int,
}

/// What PAM passes to [`answer`]: messages, and a place for the answers.
type PamMessages = *mut *const PamMessage;
type PamAnswers = *mut *mut PamResponse;

/// `struct pam_conv`.
#[repr(C)]
struct PamConversation {
    answer: unsafe extern "C" fn(c_int, PamMessages, PamAnswers, *mut c_void) -> c_int,
    data: *mut c_void,
}

/// Why a password was not accepted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PamFault {
    #[error("no password")]
    NoPassword,
    #[error("{0} contains a NUL byte")]
    NulByte(&'static str),
    #[error("{call}() failed: {reason}")]
    Refused { call: &'static str, reason: String },
}

/// One password to verify.
pub(super) struct PamLogin {
    pub(super) user: String,
    pub(super) password: Secret,
    /// The client's address, for the modules.
    pub(super) remote: String,
}

impl PamLogin {
    /// Asks the modules of the service, whose file is in `directory` instead of the system's.
    pub(super) fn verify(&self, directory: Option<&Path>) -> Result<(), PamFault> {
        if self.password.expose().is_empty() {
            return Err(PamFault::NoPassword);
        }
        let text = |name: &'static str, text: &str| CString::new(text).map_err(|_| PamFault::NulByte(name));
        let (user, remote) = (text("the user", &self.user)?, text("the address", &self.remote)?);
        let directory = directory.map(|path| text("the directory", &path.to_string_lossy())).transpose()?;
        let password = SecretText::new(&self.password)?;
        let conversation =
            PamConversation { answer, data: ptr::from_ref(&password).cast_mut().cast::<c_void>() };
        let mut handle = ptr::null_mut();
        let directory = directory.as_deref().map_or(ptr::null(), CStr::as_ptr);
        // SAFETY: the texts end with NUL, and `conversation` and `password` outlive the handle, which is closed below.
        let status = unsafe {
            pam_start_confdir(
                SERVICE.as_ptr(),
                user.as_ptr(),
                &raw const conversation,
                directory,
                &raw mut handle,
            )
        };
        if status != PAM_SUCCESS {
            return Err(refused("pam_start", handle, status));
        }
        let mut transaction = PamTransaction { handle, status };
        // SAFETY (all three): the handle is open; PAM copies the item.
        transaction.step("pam_set_item", |handle| unsafe {
            pam_set_item(handle, PAM_RHOST, remote.as_ptr().cast::<c_void>())
        })?;
        transaction.step("pam_authenticate", |handle| unsafe {
            pam_authenticate(handle, PAM_SILENT | PAM_DISALLOW_NULL_AUTHTOK)
        })?;
        // Whether the account has expired or may log in now.
        transaction.step("pam_acct_mgmt", |handle| unsafe {
            pam_acct_mgmt(handle, PAM_SILENT | PAM_DISALLOW_NULL_AUTHTOK)
        })
    }
}

// SAFETY: declared as in <security/pam_appl.h>.
#[link(name = "pam")]
unsafe extern "C" {
    fn pam_start_confdir(
        service: *const c_char,
        user: *const c_char,
        conversation: *const PamConversation,
        directory: *const c_char,
        handle: *mut *mut c_void,
    ) -> c_int;
    fn pam_set_item(handle: *mut c_void, item: c_int, value: *const c_void) -> c_int;
    fn pam_authenticate(handle: *mut c_void, flags: c_int) -> c_int;
    fn pam_acct_mgmt(handle: *mut c_void, flags: c_int) -> c_int;
    fn pam_end(handle: *mut c_void, status: c_int) -> c_int;
    fn pam_strerror(handle: *mut c_void, status: c_int) -> *const c_char;
}

/// An open handle, closed when dropped.
struct PamTransaction {
    handle: *mut c_void,
    /// The result of the last call.
    status: c_int,
}

impl PamTransaction {
    fn step(&mut self, call: &'static str, make: impl FnOnce(*mut c_void) -> c_int) -> Result<(), PamFault> {
        self.status = make(self.handle);
        if self.status == PAM_SUCCESS { Ok(()) } else { Err(refused(call, self.handle, self.status)) }
    }
}

impl Drop for PamTransaction {
    fn drop(&mut self) {
        // SAFETY: the handle is open, and not used again.
        unsafe { pam_end(self.handle, self.status) };
    }
}

fn refused(call: &'static str, handle: *mut c_void, status: c_int) -> PamFault {
    // SAFETY: Linux-PAM ignores the handle and returns a constant text.
    let text = unsafe { pam_strerror(handle, status) };
    let reason = match text.is_null() {
        true => status.to_string(),
        // SAFETY: not null, and ends with NUL.
        false => unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned(),
    };
    PamFault::Refused { call, reason }
}

/// A password that ends with NUL; wiped when dropped.
struct SecretText(zeroize::Zeroizing<Vec<u8>>);

impl SecretText {
    fn new(password: &Secret) -> Result<Self, PamFault> {
        let text = password.expose().as_bytes();
        if text.contains(&0) {
            return Err(PamFault::NulByte("the password"));
        }
        let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(text.len() + 1));
        bytes.extend_from_slice(text);
        bytes.push(0);
        Ok(Self(bytes))
    }
}

/// Answers the modules' messages: the password to prompts without echo, nothing to information.
///
/// # Safety
/// PAM calls it with `count` valid messages, a place for the answers, and the data of the conversation.
unsafe extern "C" fn answer(
    count: c_int,
    messages: PamMessages,
    answers: PamAnswers,
    data: *mut c_void,
) -> c_int {
    if !(1..=MAX_MESSAGES).contains(&count) || messages.is_null() || answers.is_null() || data.is_null() {
        return PAM_CONV_ERR;
    }
    let count = count as usize;
    // SAFETY: set in `verify`, which waits for the end of the transaction.
    let password = unsafe { &*data.cast::<SecretText>() };
    // SAFETY: PAM frees the answers with free(3), so they are allocated with calloc(3).
    let made = unsafe { libc::calloc(count, size_of::<PamResponse>()) }.cast::<PamResponse>();
    if made.is_null() {
        return PAM_BUF_ERR;
    }
    for at in 0..count {
        // SAFETY: `at` is less than the number of messages and of answers; Linux-PAM passes an array of pointers.
        let (message, response) = unsafe { (*messages.add(at), &mut *made.add(at)) };
        // SAFETY: a message that is not null is valid during this call.
        let style = if message.is_null() { None } else { Some(unsafe { (*message).style }) };
        let status = match style {
            Some(PAM_PROMPT_ECHO_OFF) => {
                // SAFETY: the text ends with NUL; PAM frees the copy.
                response.text = unsafe { libc::strdup(password.0.as_ptr().cast::<c_char>()) };
                if response.text.is_null() { PAM_BUF_ERR } else { PAM_SUCCESS }
            }
            Some(PAM_ERROR_MSG | PAM_TEXT_INFO) => PAM_SUCCESS,
            // A prompt for something else, such as a second factor.
            _ => PAM_CONV_ERR,
        };
        if status != PAM_SUCCESS {
            // SAFETY: allocated above, and not returned.
            unsafe { free_answers(made, count) };
            return status;
        }
    }
    // SAFETY: a place for a pointer.
    unsafe { *answers = made };
    PAM_SUCCESS
}

/// # Safety
/// `answers` is an array of `count` answers, whose texts are null or from strdup(3).
unsafe fn free_answers(answers: *mut PamResponse, count: usize) {
    for at in 0..count {
        // SAFETY: see above; free(3) accepts null.
        unsafe { libc::free((*answers.add(at)).text.cast::<c_void>()) };
    }
    // SAFETY: from calloc(3).
    unsafe { libc::free(answers.cast::<c_void>()) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A service that accepts the password `secret` of user `app` from 192.0.2.1 and logs nothing.
    fn service(account: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("check");
        let text = "#!/bin/sh\nIFS= read -r password\n\
                    [ \"$password/$PAM_USER/$PAM_RHOST/$PAM_SERVICE\" = secret/app/192.0.2.1/pgbouncer ]\n";
        std::fs::write(&script, text).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let lines = format!(
            "auth required pam_exec.so quiet expose_authtok {}\naccount required {account}\n",
            script.display()
        );
        std::fs::write(dir.path().join("pgbouncer"), lines).unwrap();
        dir
    }

    fn verify(account: &str, user: &str, password: &str, remote: &str) -> Result<(), String> {
        let dir = service(account);
        let login =
            PamLogin { user: user.to_owned(), password: Secret::new(password), remote: remote.to_owned() };
        login.verify(Some(dir.path())).map_err(|fault| fault.to_string())
    }

    #[test]
    fn the_modules_receive_user_password_and_address() {
        let permit = "pam_permit.so";
        assert_eq!(verify(permit, "app", "secret", "192.0.2.1"), Ok(()));
        for (user, password, remote) in
            [("app", "wrong", "192.0.2.1"), ("other", "secret", "192.0.2.1"), ("app", "secret", "192.0.2.2")]
        {
            let refused = verify(permit, user, password, remote).unwrap_err();
            assert!(refused.starts_with("pam_authenticate() failed: "), "{refused}");
        }
        let refused = verify("pam_deny.so", "app", "secret", "192.0.2.1").unwrap_err();
        assert!(refused.starts_with("pam_acct_mgmt() failed: "), "{refused}");
    }

    #[test]
    fn passwords_that_c_cannot_represent_are_refused() {
        assert_eq!(verify("pam_permit.so", "app", "", "x"), Err("no password".to_owned()));
        let nul = verify("pam_permit.so", "app", "a\0b", "x");
        assert_eq!(nul, Err("the password contains a NUL byte".to_owned()));
    }

    #[test]
    fn a_prompt_with_echo_is_not_answered() {
        let password = SecretText::new(&Secret::new("secret")).unwrap();
        let prompts = [PAM_PROMPT_ECHO_OFF, 2].map(|style| PamMessage { style, text: ptr::null() });
        let mut messages = prompts.each_ref().map(ptr::from_ref);
        let mut answers = ptr::null_mut();
        let data = ptr::from_ref(&password).cast_mut().cast::<c_void>();
        // SAFETY: as PAM calls it.
        let status = unsafe { answer(2, messages.as_mut_ptr(), &raw mut answers, data) };
        assert_eq!((status, answers.is_null()), (PAM_CONV_ERR, true));
        // SAFETY: as above; a count of zero is refused before anything is read.
        assert_eq!(unsafe { answer(0, ptr::null_mut(), &raw mut answers, data) }, PAM_CONV_ERR);
    }
}
