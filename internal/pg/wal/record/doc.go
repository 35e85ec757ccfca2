// Package record reads the records of PostgreSQL's write-ahead log, versions 13 to 18, out of a log that arrives in
// pieces of any size: it joins what page headers part, checks lengths, links and CRCs, and says which blocks of
// which relations each record refers to. What a record means is the business of whoever gets it; no I/O is done.
//
// Terms: a record starts at a multiple of eight, and may go on over any number of pages (it continues). A block
// reference names a page of a relation's fork, with or without a full-page image. Main data is what is left of a
// record after headers, images and the data of blocks.
//
//	page of the log:  header | rest of a record | record | record | beginning of a record
//	record:           header (24 bytes) | block headers | data header | images and data of blocks | main data
//
// A record is handed over only when all of it is valid. Whatever is not ends the reading for good with a
// *StopError: where zeros or an older log follow, the log has ended there; everything else is damage. Broken bytes
// never give a panic, nor a record. The formats are those of access/xlog_internal.h, access/xlogrecord.h and of
// xlogreader.c in each version.
package record
