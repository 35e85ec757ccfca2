// Package standby keeps a database continuously recovered from a repository alone, ready to take over. It never writes to the
// repository, never touches the source, and never promotes without being told.
//
//	restore the newest snapshot into the directory, or go on with what is there, or bring it back by a delta restore
//	serve the repository's log as a primary would (pg/walsender), on a socket of a private directory
//	start the source's own version of PostgreSQL as a hot standby of that socket
//	follow the log's tail as it grows; watch the server, and start it again when it has ended
//	a gap in the log, or another history than the repository's: a delta restore from a newer snapshot
//	told to promote: replay all that the repository holds, promote, and say what is known to be missing
//
// There is no restore_command: a server whose log is not there waits, instead of ending. What is served is what the store holds
// without a gap, never more. See docs/decisions/0023.
package standby
