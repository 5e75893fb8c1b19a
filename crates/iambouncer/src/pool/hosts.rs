//! The login to one of the hosts of a line. Owns which hosts are tried, in which order, and what a failure of all means;
//! what they have answered is in [`crate::server_roles`], the login itself in [`crate::server::login`].

use super::acquire::Pool;
use crate::config::{Database, LoadBalanceHosts, TargetSessionAttrs};
use crate::server::error::LoginStage;
use crate::server::login::{self, LoginResult};
use crate::server::progress::Progress;
use crate::server::target::LoginTarget;
use crate::server::{Diagnosis, LoginError, ServerInfo};
use crate::server_roles::{HostAnswer, HostOrder, RETRY_INTERVAL, RequiredRole};
use crate::worker::{self, timers};
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// How often the logins under way are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// After this number of looks at logins that are all silent, the other hosts are tried again.
const LOOKS_AT_SILENT: u32 = 3;

/// Completes the target of a login.
pub(super) type Adjust<'a> = &'a dyn Fn(&mut LoginTarget);

impl Pool {
    /// Logs in to a server that is as `target_session_attrs` of the line requires. With `any`, one host is tried.
    ///
    /// # Errors
    /// No host can be used; see `HostSearch::explain` for what is reported of several failures.
    pub(super) async fn log_in_to_line(
        self: &Rc<Self>,
        adjust: Adjust<'_>,
    ) -> Result<LoginResult, Diagnosis> {
        let line = self.database.line.borrow().clone();
        if line.target_session_attrs == TargetSessionAttrs::Any {
            let progress = Progress::default();
            let mut target = self.target(&line).map_err(|error| progress.explain(error))?;
            adjust(&mut target);
            let logged_in = login::log_in(&self.context, &target, &progress).await;
            return logged_in.map_err(|error| progress.explain(error));
        }
        let turn = match line.load_balance_hosts {
            LoadBalanceHosts::RoundRobin => self.logins.skip_host(),
            LoadBalanceHosts::Disable => 0,
        };
        let search = HostSearch { pool: self, line: &line, adjust, hosts: names_of(&line), turn };
        if line.target_session_attrs == TargetSessionAttrs::PreferStandby {
            match search.run(TargetSessionAttrs::Standby).await {
                Err(failed) if !failed.error.is_refusal() => {}
                outcome => return outcome,
            }
        }
        search.run(line.target_session_attrs).await
    }

    /// A login has found the writer: servers at other hosts were, and are closed as soon as they are free.
    pub(super) fn follow_writer(self: &Rc<Self>, info: &ServerInfo) {
        let Some(required) = info.facts.required.as_ref().filter(|required| required.wanted.is_writer())
        else {
            return;
        };
        if self.shared.set_writer(&required.host) {
            self.leave_other_writers();
            self.run_on_others(Self::leave_other_writers);
        }
    }

    fn leave_other_writers(self: &Rc<Self>) {
        if let Some(writer) = self.shared.writer() {
            self.table.mark_others(&writer);
        }
    }

    /// Closes servers whose address is not that of a server as required any more, as soon as they are free.
    pub(super) fn apply_role_changes(&self) {
        let roles = &self.context.process.server_roles;
        self.table.mark_unfit(roles.changes(), |required| roles.still_fits(required));
    }

    /// A statement has failed because its transaction is read-only. Unless its client wanted that, the server is no longer
    /// the writer: it is not used again, and a new login finds out.
    #[cold]
    pub fn doubt_role(self: &Rc<Self>, info: &ServerInfo) {
        let Some(required) = &info.facts.required else { return };
        if required.wanted.is_writer()
            && !info.close_needed.get()
            && self.context.process.server_roles.may_doubt(&required.address, worker::now())
        {
            info.close_needed.set(true);
            self.replace(info);
        }
    }
}

fn names_of(line: &Database) -> Vec<Arc<str>> {
    line.host.iter().map(|host| Arc::from(format!("{host}:{}", line.port))).collect()
}

/// A login that is under way.
struct HostLogin<'a> {
    /// Its position among the hosts.
    at: usize,
    progress: Rc<Progress>,
    login: Pin<Box<dyn Future<Output = Result<LoginResult, Diagnosis>> + 'a>>,
}

/// A search for a server among the hosts of a line.
struct HostSearch<'a> {
    pool: &'a Rc<Pool>,
    line: &'a Database,
    adjust: Adjust<'a>,
    hosts: Vec<Arc<str>>,
    turn: usize,
}

impl HostSearch<'_> {
    /// Tries the hosts one after the other: the next one when one has failed, or is silent. While the last ones are silent,
    /// the others are asked again.
    async fn run(&self, wanted: TargetSessionAttrs) -> Result<LoginResult, Diagnosis> {
        let HostOrder { tried, left_out, .. } = self.order(wanted).await;
        let mut waiting = VecDeque::from(tried);
        let mut running: Vec<HostLogin<'_>> = Vec::new();
        let mut failures = BTreeMap::new();
        let mut looks_at_silent = 0;
        loop {
            if running.iter().all(|login| login.progress.is_silent()) {
                match waiting.pop_front() {
                    Some(at) => running.push(self.log_in_at(at, wanted)),
                    None if running.is_empty() => return Err(self.explain(wanted, failures, &left_out)),
                    None => looks_at_silent += 1,
                }
                if looks_at_silent == LOOKS_AT_SILENT {
                    looks_at_silent = 0;
                    if self.is_decided(wanted, &failures) {
                        running.iter().for_each(|login| self.record_unreachable(login.at, wanted));
                        return Err(self.explain(wanted, failures, &left_out));
                    }
                    waiting.extend(self.others(&running, &failures, wanted));
                }
            }
            match timers::timeout(LOOK_INTERVAL, first_of(&mut running)).await {
                Some((_, Ok(logged_in))) => {
                    // The next login does not wait for them.
                    let silent = running.iter().filter(|login| login.progress.is_silent());
                    silent.for_each(|login| self.record_unreachable(login.at, wanted));
                    return Ok(logged_in);
                }
                Some((at, Err(failed))) => drop(failures.insert(at, failed)),
                None => {}
            }
        }
    }

    /// The hosts to try, at least one if there is any: another pool may be asking all that are unsuitable.
    async fn order(&self, wanted: TargetSessionAttrs) -> HostOrder {
        let roles = &self.pool.context.process.server_roles;
        let mut order = roles.order(&self.hosts, wanted, worker::now());
        if order.tried.is_empty() {
            timers::sleep(RETRY_INTERVAL).await;
            order = roles.order(&self.hosts, wanted, worker::now());
        }
        // Readers are spread; of writers there is one.
        if !wanted.is_writer() {
            let suitable = order.suitable;
            order.tried[..suitable].rotate_left(self.turn.checked_rem(suitable).unwrap_or(0));
        }
        order
    }

    fn log_in_at(&self, at: usize, wanted: TargetSessionAttrs) -> HostLogin<'_> {
        let (pool, progress) = (self.pool, Rc::new(Progress::default()));
        let host = self.hosts[at].clone();
        let login_progress = progress.clone();
        let login = async move {
            let progress = login_progress;
            let mut target = pool.target_at(self.line, &self.line.host[at]);
            target.required = Some(RequiredRole { host: host.clone(), address: host.clone(), wanted });
            (self.adjust)(&mut target);
            let logged_in = login::log_in(&pool.context, &target, &progress).await;
            if logged_in.as_ref().is_err_and(is_unreachable) {
                self.record_unreachable(at, wanted);
            }
            if let (Err(LoginError::WrongRole { .. }), Some(connected)) =
                (&logged_in, progress.trace().connected)
            {
                pool.table.mark_at(&connected.endpoint, wanted);
            }
            logged_in.map_err(|error| progress.explain(error))
        };
        HostLogin { at, progress, login: Box::pin(login) }
    }

    fn record_unreachable(&self, at: usize, wanted: TargetSessionAttrs) {
        let roles = &self.pool.context.process.server_roles;
        roles.record_answer(&self.hosts[at], wanted, HostAnswer::Unreachable, worker::now());
    }

    /// True if the outcome does not depend on hosts that are silent: a refusal; or no standby is preferred that answers.
    fn is_decided(&self, wanted: TargetSessionAttrs, failures: &BTreeMap<usize, Diagnosis>) -> bool {
        failures.values().any(|failed| failed.error.is_refusal())
            || wanted == TargetSessionAttrs::Standby
                && self.line.target_session_attrs == TargetSessionAttrs::PreferStandby
    }

    /// The hosts to try again while others are silent: those that may be promoted, or come back.
    fn others(
        &self,
        running: &[HostLogin<'_>],
        failures: &BTreeMap<usize, Diagnosis>,
        wanted: TargetSessionAttrs,
    ) -> Vec<usize> {
        let order = self.pool.context.process.server_roles.order(&self.hosts, wanted, worker::now());
        let may_change = |at: &usize| {
            failures
                .get(at)
                .is_some_and(|failed| failed.error.is_wrong_role() || is_unreachable(&failed.error))
        };
        let is_silent = |at: &usize| running.iter().any(|login| login.at == *at);
        order.tried.into_iter().filter(|at| may_change(at) && !is_silent(at)).collect()
    }

    /// The failure of the search. That no host is suitable comes first: refusals at a moment at which hosts change are
    /// temporary. Then a refusal, or another failure of a host that was reached.
    fn explain(
        &self,
        wanted: TargetSessionAttrs,
        failures: BTreeMap<usize, Diagnosis>,
        left_out: &[(usize, HostAnswer)],
    ) -> Diagnosis {
        let is_specific = |error: &LoginError| !error.is_wrong_role() && !error.is_about_reaching();
        let first = |is: &dyn Fn(&LoginError) -> bool| failures.values().find(|failed| is(&failed.error));
        let only = || failures.values().next().filter(|_| failures.len() == 1 && left_out.is_empty());
        let reported = first(&LoginError::is_refusal).or_else(|| first(&is_specific)).or_else(only);
        let is_unsuitable = |(_, answer): &(usize, HostAnswer)| matches!(answer, HostAnswer::Unsuitable(_));
        let may_change = first(&LoginError::is_wrong_role).is_some() || left_out.iter().any(is_unsuitable);
        if let Some(failed) = reported.filter(|_| !may_change || self.hosts.len() == 1) {
            return failed.clone();
        }
        let mut found: Vec<(usize, String)> = failures
            .iter()
            .map(|(at, failed)| match &failed.error {
                LoginError::WrongRole { server, role, .. } => (*at, format!("{server} is {role}")),
                error => (*at, format!("{}: {error}", self.hosts[*at])),
            })
            .collect();
        let left_out = left_out.iter().filter(|(at, _)| !failures.contains_key(at));
        found.extend(left_out.map(|(at, answer)| match answer {
            HostAnswer::Unsuitable(role) => (*at, format!("{} is {role}", self.hosts[*at])),
            _ => (*at, format!("{} could not be reached a moment ago", self.hosts[*at])),
        }));
        found.sort();
        let found = found.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join("; ");
        Progress::default().explain(LoginError::NoSuitableServer { wanted, found })
    }
}

/// True if the failure says that the host cannot be reached by any login.
fn is_unreachable(error: &LoginError) -> bool {
    let was_for_aws = matches!(
        error,
        LoginError::Timeout {
            stage: LoginStage::RateLimit | LoginStage::Credentials | LoginStage::Secret,
            ..
        }
    );
    error.is_about_reaching() && !was_for_aws
}

/// The first of these logins to end, which is removed.
async fn first_of(running: &mut Vec<HostLogin<'_>>) -> (usize, Result<LoginResult, Diagnosis>) {
    poll_fn(|context| {
        for at in 0..running.len() {
            if let Poll::Ready(outcome) = running[at].login.as_mut().poll(context) {
                return Poll::Ready((running.swap_remove(at).at, outcome));
            }
        }
        Poll::Pending
    })
    .await
}
