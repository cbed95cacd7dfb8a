//! Response flags: what went wrong, in Envoy's two and three letter codes.

use std::fmt;

/// A set of response flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u32);

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal, $code:literal;)*) => {
        impl Flags {
            $($(#[$doc])* pub const $name: Self = Self(1 << $bit);)*
        }
        /// In the order in which Envoy prints them.
        const CODES: &[(Flags, &str)] = &[$((Flags::$name, $code),)*];
    };
}

flags! {
    NO_HEALTHY_UPSTREAM = 1, "UH";
    UPSTREAM_TIMEOUT = 2, "UT";
    LOCAL_RESET = 3, "LR";
    UPSTREAM_RESET = 4, "UR";
    UPSTREAM_FAILURE = 5, "UF";
    UPSTREAM_TERMINATION = 6, "UC";
    OVERFLOW = 7, "UO";
    NO_ROUTE = 8, "NR";
    DELAY_INJECTED = 9, "DI";
    FAULT_INJECTED = 10, "FI";
    DOWNSTREAM_TERMINATION = 14, "DC";
    RETRY_LIMIT = 15, "URX";
    STREAM_IDLE = 16, "SI";
    DOWNSTREAM_PROTOCOL = 18, "DPE";
    MAX_DURATION = 19, "UMSDR";
    DURATION_TIMEOUT = 22, "DT";
    UPSTREAM_PROTOCOL = 23, "UPE";
    NO_UPSTREAM = 24, "NC";
}

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);

    /// Adds flags.
    pub fn add(&mut self, flags: Self) {
        self.0 |= flags.0;
    }

    /// Whether any of `flags` is set.
    pub fn has(self, flags: Self) -> bool {
        self.0 & flags.0 != 0
    }

    /// The flag with this code.
    pub fn from_code(code: &str) -> Option<Self> {
        CODES.iter().find(|(_, known)| *known == code).map(|(flag, _)| *flag)
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("-");
        }
        let set = CODES.iter().filter(|(flag, _)| self.has(*flag));
        for (index, (_, code)) in set.enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{code}")?;
        }
        Ok(())
    }
}
