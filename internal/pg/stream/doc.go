// Package stream receives the log of a running server over the replication protocol, as a physical standby
// does, and hands it to a Sink in order, without a gap. It stores nothing and reconnects never: both are the
// caller's.
//
//	Receiver.Run:
//	    IDENTIFY_SYSTEM: is it the cluster that was asked for, and is our position on its way?
//	    for each timeline, from ours on:
//	        TIMELINE_HISTORY → Sink.History
//	        START_REPLICATION; each piece → Sink.WAL; beside it, the status loop sends what was Acked
//	        the timeline ends: go on with the next one, from the start of the segment of the switch
//
// Positions are acknowledged to the server only by Ack: the caller says what is durable, and the server keeps
// the rest in its slot. A slow sink holds up the server's sending, not its work.
//
// Messages are those of the manual's chapter "Streaming Replication Protocol".
package stream
