// Package boot starts PostgreSQL on a restored directory and sees its recovery through to the end that was
// planned, and to no other:
//
//	lock everybody else out (pg_hba.conf is exchanged for one line that lets us in)
//	run postgres, on a private socket
//	to the log's end:  it runs as a standby, which never ends its recovery by itself; when it has replayed all
//	                   that the repository holds, and that reaches the mark, it is promoted
//	to a target:       PostgreSQL stops there by itself, and refuses to go on where it did not come so far
//	give pg_hba.conf back
//
// The Report has the phases with their times and what was lost. It never restores files.
package boot
