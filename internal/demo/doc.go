// Package demo shows the whole of Holdfast on a throw-away PostgreSQL: it protects it, destroys it while writes go
// on, recovers it, and compares what came back with a ledger of every commit that the server had acknowledged.
// It uses nothing but the command line's own commands, in processes of their own, so that what it shows is what a
// user gets: the agent is killed with -9 together with the primary.
//
//	initdb → repo init → agent (log stream, first snapshot) → writers, each commit noted in the ledger
//	kill -9 of primary and agent; its data directory removed
//	restore --start → the ledger against the recovered table, row by row → RPO, RTO
//
// With regions there are three sites, directories of this machine. The first is lost with all that is in it; the configuration
// and the passphrase are what somebody has kept elsewhere.
package demo
