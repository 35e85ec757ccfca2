// Package verify proves that a system can be recovered, by doing it: a restore test of a recovery point in a sandbox, as deep as
// is asked for. Each depth includes those before it:
//
//	objects  all that the snapshot and its log up to the point need is there, opens, decodes and has its ID
//	pages    every page is as PostgreSQL would accept it; files have sizes that fit; the tree fits to pg_control
//	boot     the server's own programs start on it in a sandbox, replay to the point, and answer a query
//	check    amcheck finds every index and every table of every database to be sound
//	query    what the user says of his data holds: a value, a range, an age, the figure that the source had
//
// A Result says what was proven, what was found, how long each phase took, and what was not covered. It never repairs, and
// it never touches what it tests.
//
// A backup is hostile input: nothing of its configuration is believed, its server has no network and no rights (Sandbox
// says what of that this machine could do), and what is left of a test whose process was killed is removed by the next one.
package verify
