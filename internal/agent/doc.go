// Package agent runs what holdfast.yaml says for the systems of one host, with no server needed: the log stream
// all the time, snapshots by schedule, retention and collection after them, checks; and tells how it goes, to
// Prometheus, to systemd and to `holdfast status`. It never restores, and never changes a database.
//
//	Run
//	├── web: /metrics, /healthz, /status        all three show what Status gathers
//	├── notify: READY, WATCHDOG, STATUS
//	└── for each system a keeper
//	    ├── the log stream, always
//	    └── one task at a time: decide(state, now, plan) → act → state, saved before and after
//
// Terms:
//
//	task    what a keeper does by the clock: snapshot, retention, collection, check
//	state   what a keeper remembers in a small file. The truth about snapshots is in the repository: the
//	        file saves work, and a lost one costs nothing but a check that comes too early or too late
package agent
