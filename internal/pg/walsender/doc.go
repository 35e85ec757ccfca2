// Package walsender serves a log to a PostgreSQL standby as a primary's walsender does (manual, "Streaming Replication
// Protocol"). Where the log comes from is not its matter: see Log. It never sends what the Log does not hand it, and
// answers nothing but replication commands:
//
//	IDENTIFY_SYSTEM   SHOW name   TIMELINE_HISTORY tli   START_REPLICATION [SLOT name] [PHYSICAL] lsn [TIMELINE tli]
//
// A Log that has no more just now lets the standby wait, with keep-alives, for as long as it takes. Where a timeline was
// left, the standby is told the next one, and asks for that itself.
//
// There is no authentication: it is for a Unix socket, whose peer the kernel names.
package walsender
