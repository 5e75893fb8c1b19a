//! What a session can have that exists on its server only. Owns the names under which this is shown.

/// A kind of state of a session that no other server has. While a client may have it, it keeps its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Feature {
    /// A temporary table, view, sequence, function or type.
    TemporaryObject,
    /// A cursor WITH HOLD.
    HoldableCursor,
    /// An advisory lock of the session.
    AdvisoryLock,
    /// It listens on a channel.
    Listen,
    /// A statement of PREPARE.
    SqlPrepared,
    /// Values of sequences, for `currval` and `lastval`.
    SequenceValue,
    /// The seed of `random()`.
    RandomSeed,
    /// A library loaded by LOAD.
    LoadedLibrary,
    /// A temporary replication slot, or an origin of replication.
    ReplicationSlot,
    /// A connection of dblink.
    RemoteConnection,
    /// `search_path` contains the schema of temporary objects, so that any CREATE may make one.
    TemporarySchema,
    /// A setting whose name is computed by the statement.
    ComputedSetting,
    /// Code that is not known: DO, CALL, a function by its number.
    UnknownCode,
    /// A text that cannot be read, so that it may contain anything.
    UnreadableText,
    /// More settings than are kept for a client.
    ManySettings,
    /// A setting that the user of the connection may not change: a function or another role has changed it.
    SuperuserSetting,
}

impl Feature {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 16] = [
        Self::TemporaryObject,
        Self::HoldableCursor,
        Self::AdvisoryLock,
        Self::Listen,
        Self::SqlPrepared,
        Self::SequenceValue,
        Self::RandomSeed,
        Self::LoadedLibrary,
        Self::ReplicationSlot,
        Self::RemoteConnection,
        Self::TemporarySchema,
        Self::ComputedSetting,
        Self::UnknownCode,
        Self::UnreadableText,
        Self::ManySettings,
        Self::SuperuserSetting,
    ];

    /// Those whose presence a query to the server can determine.
    pub const PROBED: [Self; 5] =
        [Self::TemporaryObject, Self::HoldableCursor, Self::AdvisoryLock, Self::Listen, Self::SqlPrepared];

    /// The name, as shown by the console and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::TemporaryObject => "temporary_object",
            Self::HoldableCursor => "holdable_cursor",
            Self::AdvisoryLock => "advisory_lock",
            Self::Listen => "listen",
            Self::SqlPrepared => "sql_prepare",
            Self::SequenceValue => "sequence_value",
            Self::RandomSeed => "random_seed",
            Self::LoadedLibrary => "loaded_library",
            Self::ReplicationSlot => "replication_slot",
            Self::RemoteConnection => "remote_connection",
            Self::TemporarySchema => "temporary_schema",
            Self::ComputedSetting => "computed_setting",
            Self::UnknownCode => "unknown_code",
            Self::UnreadableText => "unreadable_text",
            Self::ManySettings => "many_settings",
            Self::SuperuserSetting => "superuser_setting",
        }
    }
}

/// A set of features.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Features(u16);

impl Features {
    /// None.
    pub const NONE: Self = Self(0);

    /// All.
    pub const ALL: Self = Self::of(&Feature::ALL);

    /// Those of [`Feature::PROBED`].
    pub const PROBED: Self = Self::of(&Feature::PROBED);

    /// The set of these.
    pub const fn of(features: &[Feature]) -> Self {
        let mut bits = 0;
        let mut at = 0;
        while at < features.len() {
            bits |= 1 << features[at] as u16;
            at += 1;
        }
        Self(bits)
    }

    /// True if there is none.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// True if `feature` is one of them.
    pub fn contains(self, feature: Feature) -> bool {
        !self.and(Self::of(&[feature])).is_empty()
    }

    /// Adds a feature.
    pub fn insert(&mut self, feature: Feature) {
        self.add(Self::of(&[feature]));
    }

    /// Adds others.
    pub fn add(&mut self, others: Self) {
        self.0 |= others.0;
    }

    /// Those that are also in `others`.
    #[must_use]
    pub fn and(self, others: Self) -> Self {
        Self(self.0 & others.0)
    }

    /// Those that are not in `others`.
    #[must_use]
    pub fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// The features.
    pub fn iter(self) -> impl Iterator<Item = Feature> {
        Feature::ALL.into_iter().filter(move |feature| self.contains(*feature))
    }
}

/// Their names, separated by commas.
impl std::fmt::Display for Features {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, feature) in self.iter().enumerate() {
            f.write_str(if at > 0 { ", " } else { "" })?;
            f.write_str(feature.name())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_numbered_in_the_order_of_the_list() {
        for (at, feature) in Feature::ALL.into_iter().enumerate() {
            assert_eq!(feature as usize, at);
        }
        let mut all = Features::of(&Feature::ALL);
        assert_eq!(all.iter().count(), Feature::ALL.len());
        all = all.without(Features::PROBED);
        assert!(!all.contains(Feature::Listen) && all.contains(Feature::RandomSeed));
    }
}
