// Package quick answers archive_command and restore_command before the rest of the program begins. PostgreSQL starts a
// command for each segment of its log; most of what such a command costs is its start, and most of that is the
// initialisation of some two hundred packages that it does not use. So this package, which imports next to nothing, looks
// at the command line when it is initialised itself: is it a `wal push` or `wal fetch` whose sidecar has the file
// already, the process ends there. In every other case (no sidecar, another command, an error, a flag that it does not
// know) it does nothing, and the program finds out for itself. See docs/decisions/0010.
//
// It does without os, strings and time: they begin behind some sixty others, whose names come first, and this package
// would begin behind them.
package quick
