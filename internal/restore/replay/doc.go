// Package replay gives a server settings for the time in which it replays its log, and takes them back. It never touches
// what decides over data: fsync, full_page_writes and every setting that a standby must not undercut stay as they are.
//
//	Choose   settings for a version, and what the server has by itself
//	Set      writes them as the last block of postgresql.auto.conf, before the server starts
//	Unset    takes that block out again; the server then has to be told to read its configuration
//
// The block begins like the one of package restore, so that every later restore over the directory removes it too. It also
// sets Marker, by which a server tells that nobody has taken the block out.
package replay
