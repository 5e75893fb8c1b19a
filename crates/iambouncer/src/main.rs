//! The `iambouncer` binary. Owns nothing: see [`iambouncer::cli`].

fn main() -> std::process::ExitCode {
    iambouncer::cli::main()
}
