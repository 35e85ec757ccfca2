package dr

// The keys of log attributes. One fact has one key in every package, so that a search over a log finds it.
const (
	KeyAgent      = "agent"
	KeyAttempt    = "attempt"
	KeyBytes      = "bytes"
	KeyDatabase   = "database"
	KeyDuration   = "duration"
	KeyError      = "error"
	KeyFile       = "file"
	KeyLSN        = "lsn"
	KeyNext       = "next"
	KeyObject     = "object"
	KeyPhase      = "phase"
	KeyPolicy     = "policy"
	KeyReason     = "reason"
	KeyRecovery   = "recovery"
	KeyRepository = "repository"
	KeySite       = "site"
	KeySlot       = "slot"
	KeySnapshot   = "snapshot"
	KeySystem     = "system"
	KeyTime       = "at"
	KeyTimeline   = "timeline"
)
