# Evaluates flake.nix with substitutes for nixpkgs, which return their arguments, and selects what test_flake.py checks.
{ flake }:
let
  outputs = (import flake).outputs {
    self = outputs // {
      outPath = "/source";
    };
    nixpkgs = {
      lib.genAttrs =
        names: function:
        builtins.listToAttrs (
          map (name: {
            inherit name;
            value = function name;
          }) names
        );
      legacyPackages = {
        x86_64-linux = packagesFor "x86_64-linux";
        aarch64-linux = packagesFor "aarch64-linux";
      };
    };
  };
  packagesFor =
    system:
    {
      inherit system;
      lib.licenses.asl20 = "Apache-2.0";
      rustPlatform.buildRustPackage = arguments: arguments // { outPath = "/store/iambouncer"; };
      dockerTools.buildLayeredImage = arguments: arguments // { outPath = "/store/image"; };
      mkShell = arguments: arguments // { outPath = "/store/shell"; };
    }
    // builtins.listToAttrs (
      map
        (name: {
          inherit name;
          value = "/store/${name}";
        })
        [
          "cargo"
          "clippy"
          "gnumake"
          "installShellFiles"
          "nodejs"
          "openldap"
          "postgresql"
          "python3"
          "rustc"
          "rustfmt"
          "valgrind"
        ]
    );
in
builtins.mapAttrs (
  system: packages:
  let
    package = packages.iambouncer;
  in
  {
    inherit (package) pname version cargoBuildFlags;
    inherit (package.meta) license mainProgram platforms;
    source = toString package.src;
    lockFile = toString package.cargoLock.lockFile;
    isDefault = packages.default == package;
    image = {
      inherit (packages.image) name tag config;
    };
    program = outputs.apps.${system}.default.program;
    shell = outputs.devShells.${system}.default.packages;
    checked = builtins.attrNames outputs.checks.${system};
  }
) outputs.packages
