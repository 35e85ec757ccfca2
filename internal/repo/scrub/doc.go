// Package scrub reads every byte of a replica over and over, at a pace, proves what it reads, has damage put back, and says what of it
// was read when: so that damage is found while another copy is still good. It decides what is read; repo proves and heals it.
//
//	ledger     when each object was last read whole and found good; a file on this host, which may be lost
//	budget     bytes that may be read by now; it is earned by the day and spent by the byte
//	window     how long ago each byte was read at most, if the budget suffices
//	survey     a check of everything but the data: what is missing is found by what names it
//	statement  which share was read within the window, how old the oldest is, and what may be damaged unseen
//
// One round after the other:
//
//	list the replica                     (new objects count from the listing before; what is gone is forgotten)
//	order: least recently read first     (one that was never read: as if half a window before it was written)
//	while the budget allows:
//	    read an object and its parity, prove it, note it
//	    damaged: put it back from its parity, earlier versions or other sites, and read it again
//	now and then survey, and put back what is missing
//
// An error of the store is no damage: the object stays unread, and the statement says so.
package scrub
