// Package cluster knows a PostgreSQL server from outside: what it is and whether it can be protected
// (Identify, Info.Check, CheckPrivileges), what a base backup of its data directory holds (Walk), and the two
// ways to take one:
//
//	beside it:  BeginBackup → Walk, reading the files → control.Read → Backup.Stop
//	from afar:  RemoteBackup, which receives BASE_BACKUP over the replication protocol
//
// Both give the same entries with the same paths, and the same Result. The package never writes to a cluster and
// never keeps a file's bytes.
//
// Terms: a relation (table, index) has a file number and up to four forks, each cut into segment files of 1 GiB;
// a page is 8 KiB of them and has a block number within the fork. Facts of what a backup holds are from
// PostgreSQL's backup/basebackup.c.
package cluster
