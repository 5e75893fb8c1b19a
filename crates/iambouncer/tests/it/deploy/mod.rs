//! What is released, as users run it: the static binary, the images and the Debian package. `make test-deploy` builds them
//! and runs these tests as root in a network of their own, in which the ports of the image are free.

mod binary;
mod compose;
mod dashboard;
mod debian_package;
mod figures;
mod image;
mod manifests;
mod pod;
