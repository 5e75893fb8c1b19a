//! TCP options from the configuration. Owns the options and how they are set; opens no socket.

use crate::config::Settings;
use std::io;
use std::os::fd::AsRawFd as _;

/// Keepalive and timeout settings of TCP sockets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpOptions {
    /// SO_KEEPALIVE.
    pub keepalive: bool,
    /// TCP_KEEPIDLE in seconds; 0 leaves the system's value.
    pub keep_idle_secs: u32,
    /// TCP_KEEPINTVL in seconds; 0 leaves the system's value.
    pub keep_interval_secs: u32,
    /// TCP_KEEPCNT; 0 leaves the system's value.
    pub keep_count: u32,
    /// TCP_USER_TIMEOUT in milliseconds; 0 leaves the system's value.
    pub user_timeout_ms: u32,
    /// TCP_DEFER_ACCEPT in seconds, for listening sockets; 0 leaves it off.
    pub defer_accept_secs: u32,
    /// SO_SNDBUF and SO_RCVBUF in bytes, as the kernel counts them; 0 leaves the system's values, which adapt.
    pub buffer_bytes: u32,
}

impl TcpOptions {
    /// The options in a configuration.
    pub fn of(settings: &Settings) -> Self {
        let secs = |d: std::time::Duration| u32::try_from(d.as_secs()).unwrap_or(u32::MAX);
        Self {
            keepalive: settings.tcp_keepalive,
            keep_idle_secs: secs(settings.tcp_keepidle),
            keep_interval_secs: secs(settings.tcp_keepintvl),
            keep_count: settings.tcp_keepcnt,
            user_timeout_ms: settings.tcp_user_timeout,
            defer_accept_secs: settings.tcp_defer_accept,
            buffer_bytes: settings.tcp_socket_buffer,
        }
    }
}

/// Sets the configured options, and always TCP_NODELAY.
///
/// # Errors
/// As setsockopt(2).
pub fn apply_tcp_options(socket: &socket2::Socket, options: TcpOptions) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    if options.keepalive {
        let mut keepalive = socket2::TcpKeepalive::new();
        let secs = |n: u32| std::time::Duration::from_secs(n.into());
        if options.keep_idle_secs > 0 {
            keepalive = keepalive.with_time(secs(options.keep_idle_secs));
        }
        if options.keep_interval_secs > 0 {
            keepalive = keepalive.with_interval(secs(options.keep_interval_secs));
        }
        if options.keep_count > 0 {
            keepalive = keepalive.with_retries(options.keep_count);
        }
        socket.set_tcp_keepalive(&keepalive)?;
    }
    if options.user_timeout_ms > 0 {
        let timeout = std::time::Duration::from_millis(options.user_timeout_ms.into());
        socket.set_tcp_user_timeout(Some(timeout))?;
    }
    set_buffers(&socket2::SockRef::from(socket), options)
}

/// Sets the configured sizes of buffers.
///
/// # Errors
/// As setsockopt(2).
pub fn set_buffers(socket: &socket2::Socket, options: TcpOptions) -> io::Result<()> {
    if options.buffer_bytes > 0 {
        socket.set_send_buffer_size(options.buffer_bytes as usize)?;
        socket.set_recv_buffer_size(options.buffer_bytes as usize)?;
    }
    Ok(())
}

/// Sets the options on a listener: connections inherit them, which saves system calls per connection. Options that
/// were switched off are reset. Sizes of buffers are not set here, since the system's cannot be restored.
///
/// # Errors
/// As setsockopt(2).
pub fn apply_listener_options(socket: &socket2::Socket, options: TcpOptions) -> io::Result<()> {
    socket.set_keepalive(options.keepalive)?;
    apply_tcp_options(socket, TcpOptions { buffer_bytes: 0, ..options })?;
    if options.user_timeout_ms == 0 {
        socket.set_tcp_user_timeout(None)?;
    }
    set_defer_accept(socket, options.defer_accept_secs)
}

/// The kernel delivers a connection once its first bytes have arrived, or after at most `secs` seconds.
fn set_defer_accept(socket: &socket2::Socket, secs: u32) -> io::Result<()> {
    let secs = i32::try_from(secs).unwrap_or(i32::MAX);
    // SAFETY: the option is an int that lives until the call is over.
    #[allow(unsafe_code, reason = "neither socket2 nor rustix has this option")]
    let failed = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const secs).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    } != 0;
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}
