# The pooler for Nix: package, program, image and a shell for development. It was parsed and evaluated with substitutes for
# nixpkgs, but not built; deploy/README.md says what that means. There is no flake.lock for the same reason.
{
  description = "PostgreSQL connection pooler that logs in to Amazon RDS and Aurora with IAM";

  # The compiler must be at least as new as `rust-version` in Cargo.toml.
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      forEachSystem = function: nixpkgs.lib.genAttrs systems (system: function nixpkgs.legacyPackages.${system});
      workspace = (builtins.fromTOML (builtins.readFile ./Cargo.toml)).workspace.package;
    in
    {
      packages = forEachSystem (pkgs: rec {
        default = iambouncer;

        iambouncer = pkgs.rustPlatform.buildRustPackage {
          pname = "iambouncer";
          version = workspace.version;
          src = self;
          cargoLock.lockFile = ./Cargo.lock;
          cargoBuildFlags = [
            "--package=iambouncer"
            "--package=rds-sim"
          ];
          # They start PostgreSQL and create network namespaces.
          doCheck = false;
          nativeBuildInputs = [ pkgs.installShellFiles ];
          postInstall = ''
            $out/bin/iambouncer man >iambouncer.1
            installManPage iambouncer.1
            for shell in bash fish zsh; do
              $out/bin/iambouncer completions $shell >iambouncer.$shell
              installShellCompletion --$shell iambouncer.$shell
            done
          '';
          meta = {
            description = "PostgreSQL connection pooler that logs in to Amazon RDS and Aurora with IAM";
            homepage = workspace.repository;
            license = pkgs.lib.licenses.asl20;
            mainProgram = "iambouncer";
            platforms = systems;
          };
        };

        # As the image of deploy/image/Dockerfile: entry point, account, ports without a file, stop signal and health check.
        image = pkgs.dockerTools.buildLayeredImage {
          name = "iambouncer";
          tag = workspace.version;
          extraCommands = "ln -s ${iambouncer}/bin/iambouncer iambouncer";
          config = {
            Entrypoint = [ "/iambouncer" ];
            User = "65532:65532";
            Env = [
              "PATH=/"
              "LISTEN_PORT=5432,6432"
            ];
            ExposedPorts = {
              "5432/tcp" = { };
              "6432/tcp" = { };
              "9127/tcp" = { };
            };
            StopSignal = "SIGTERM";
            # Times are in nanoseconds.
            Healthcheck = {
              Test = [
                "CMD"
                "/iambouncer"
                "healthcheck"
              ];
              Interval = 5000000000;
              Timeout = 3000000000;
              StartPeriod = 30000000000;
            };
          };
        };
      });

      apps = forEachSystem (pkgs: {
        default = {
          type = "app";
          program = "${self.packages.${pkgs.system}.iambouncer}/bin/iambouncer";
        };
      });

      devShells = forEachSystem (pkgs: {
        default = pkgs.mkShell {
          packages = with pkgs; [
            cargo
            clippy
            gnumake
            nodejs
            openldap
            postgresql
            python3
            rustc
            rustfmt
            valgrind
          ];
          # Where the tests look for initdb.
          PG_BIN = "${pkgs.postgresql}/bin";
        };
      });

      checks = forEachSystem (pkgs: { inherit (self.packages.${pkgs.system}) iambouncer; });
    };
}
