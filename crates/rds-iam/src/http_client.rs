//! The HTTP client of all requests to AWS.
//!
//! Owns: which certificate authorities it trusts, and the proxy.
//! Never: sends a request itself.

use std::sync::LazyLock;

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, ConnectorBuilder};
use aws_smithy_runtime_api::client::http::SharedHttpClient;

use crate::roots;

/// True if the host has certificate authorities; without them, the SDK would log warnings for each client.
static HAS_NATIVE_ROOTS: LazyLock<bool> =
    LazyLock::new(|| !rustls_native_certs::load_native_certs().certs.is_empty());

/// The SDK's default: hyper with rustls, and the proxy named by the environment. The built-in roots of Amazon are added
/// to those of the host, since an image built from nothing has none.
pub(crate) fn new() -> SharedHttpClient {
    let trusted =
        TrustStore::empty().with_native_roots(*HAS_NATIVE_ROOTS).with_pem_certificate(roots::amazon_pem());
    // Fails only for another TLS library.
    let tls = TlsContext::builder().with_trust_store(trusted).build().unwrap_or_default();
    Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = ConnectorBuilder::default().tls_provider(Provider::Rustls(CryptoMode::AwsLc));
        connector.set_tls_context(tls.clone());
        connector.set_connector_settings(settings.cloned());
        connector.set_proxy_config(Some(ProxyConfig::from_env()));
        if let Some(components) = components {
            connector.set_sleep_impl(components.sleep_impl());
        }
        connector.build()
    })
}
