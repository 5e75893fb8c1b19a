//! What is released, as users run it: the static binary, the images, the Debian package, the dashboard and the alerts.
//! `make test-deploy` builds them and runs these tests as root in a network of their own, in which the ports of the image
//! are free.

mod alerts;
mod binary;
mod compose;
mod dashboard;
mod debian_package;
mod figures;
mod image;
mod manifests;
mod monitoring;
mod pod;
mod prisma;
mod prometheus;
mod stopped_thread;
