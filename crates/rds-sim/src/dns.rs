//! A name server for tests: aliases and addresses, as in a private zone.
//!
//! Owns: one UDP socket and a table that tests change. Never: queries other servers; names that are not in
//! the table do not exist.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// Maximum length of a query, in bytes.
const MAX_QUESTION_BYTES: usize = 1500;
/// Maximum number of aliases followed in one answer.
const MAX_CHAIN: usize = 32;
/// Default TTL of answers, in seconds; as short as that of RDS.
const TTL_SECONDS: u32 = 5;

/// The records of a name.
#[derive(Clone, Debug)]
pub enum DnsEntry {
    /// A CNAME with this target.
    Alias(String),
    /// Addresses.
    Addresses(Vec<IpAddr>),
}

#[derive(Debug)]
struct Zone {
    ttl_seconds: u32,
    names: HashMap<String, DnsEntry>,
    is_silent: bool,
    is_failing: bool,
    questions: HashMap<String, u64>,
}

impl Default for Zone {
    fn default() -> Self {
        Self {
            ttl_seconds: TTL_SECONDS,
            names: HashMap::new(),
            is_silent: false,
            is_failing: false,
            questions: HashMap::new(),
        }
    }
}

/// A listening name server; dropping it closes it.
#[derive(Debug)]
pub struct DnsServer {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    task: JoinHandle<()>,
}

impl DnsServer {
    /// Starts a name server on a free port.
    pub async fn start() -> io::Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        let address = socket.local_addr()?;
        let zone = Arc::new(Mutex::new(Zone::default()));
        let task = tokio::spawn(serve(socket, Arc::clone(&zone)));
        Ok(Self { address, zone, task })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the records of a name.
    pub fn set(&self, name: &str, entry: DnsEntry) {
        lock(&self.zone).names.insert(name.to_ascii_lowercase(), entry);
    }

    /// Sets the TTL of further answers.
    pub fn set_ttl(&self, seconds: u32) {
        lock(&self.zone).ttl_seconds = seconds;
    }

    /// Stops answering, or resumes.
    pub fn set_silent(&self, is_silent: bool) {
        lock(&self.zone).is_silent = is_silent;
    }

    /// Starts or stops answering with SERVFAIL.
    pub fn set_failing(&self, is_failing: bool) {
        lock(&self.zone).is_failing = is_failing;
    }

    /// Number of queries received.
    pub fn questions(&self) -> u64 {
        lock(&self.zone).questions.values().sum()
    }

    /// Number of queries for this name; names reached through aliases are not counted.
    pub fn questions_for(&self, name: &str) -> u64 {
        lock(&self.zone).questions.get(name).copied().unwrap_or_default()
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(socket: UdpSocket, zone: Arc<Mutex<Zone>>) {
    let mut buffer = vec![0; MAX_QUESTION_BYTES];
    while let Ok((len, client)) = socket.recv_from(&mut buffer).await {
        let Ok(question) = Message::from_vec(&buffer[..len]) else { continue };
        let answer = lock(&zone).answer(&question);
        if let Some(bytes) = answer.and_then(|answer| answer.to_vec().ok()) {
            // The client may have gone.
            let _sent = socket.send_to(&bytes, client).await;
        }
    }
}

impl Zone {
    fn answer(&mut self, question: &Message) -> Option<Message> {
        let query = question.queries.first()?;
        *self.questions.entry(plain(query.name())).or_default() += 1;
        if self.is_silent {
            return None;
        }
        let mut answer = Message::response(question.metadata.id, OpCode::Query);
        answer.metadata.recursion_desired = question.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.add_query(query.clone());
        if self.is_failing {
            answer.metadata.response_code = ResponseCode::ServFail;
            return Some(answer);
        }
        let mut name = plain(query.name());
        for _ in 0..MAX_CHAIN {
            match self.names.get(&name) {
                None => {
                    answer.metadata.response_code = ResponseCode::NXDomain;
                    break;
                }
                Some(DnsEntry::Alias(target)) => {
                    let alias = RData::CNAME(CNAME(full(target)?));
                    answer.add_answer(Record::from_rdata(full(&name)?, self.ttl_seconds, alias));
                    name = target.to_ascii_lowercase();
                }
                Some(DnsEntry::Addresses(addresses)) => {
                    let owner = full(&name)?;
                    let records =
                        addresses.iter().filter_map(|address| match (address, query.query_type()) {
                            (IpAddr::V4(ip), RecordType::A) => Some(RData::A(A(*ip))),
                            (IpAddr::V6(ip), RecordType::AAAA) => Some(RData::AAAA(AAAA(*ip))),
                            _ => None,
                        });
                    answer.add_answers(
                        records
                            .map(|data| Record::from_rdata(owner.clone(), self.ttl_seconds, data))
                            .collect::<Vec<_>>(),
                    );
                    break;
                }
            }
        }
        Some(answer)
    }
}

fn plain(name: &Name) -> String {
    name.to_string().trim_end_matches('.').to_ascii_lowercase()
}

fn full(name: &str) -> Option<Name> {
    Name::from_ascii(format!("{name}.")).ok()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
