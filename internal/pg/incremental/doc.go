// Package incremental checks a chain of base backups that PostgreSQL 17 or 18 took (pg_basebackup --incremental) for
// pages that are missing, stale or broken in what pg_combinebackup would make of it. It reads and never writes: the
// image is put together in memory, a page at a time. Memory: some 200 bytes for each file of a backup, half a
// megabyte for each backup of the chain, and the maps of changed blocks (package changed).
//
// Terms: a backup starts at its redo point b and stops at its end; a full one holds all files whole, an incremental
// one holds some as INCREMENTAL.name: a list of carried blocks, and a length below which a block that is not carried
// comes from an older backup. The image of a backup is what the chain up to it gives. A finding is a proof, or a
// suspicion where something that we were not given (log, checksums) would decide.
//
//	open each backup, look at the order of the chain
//	each backup: every file as its manifest says
//	each incremental, with the log from the start a of the one before to its own start b, if it is there:
//	    each INCREMENTAL file: header, sources, carried pages, and what is not carried
//	    each suspect: is it restored by the log that the backup replays anyway?
//	the image of the last backup: every page
//
// # When is a block that is missing damage?
//
// A block is asked for when the log from a to b changed it (changed.Map; what was logged from b on does not count,
// because recovery from the backup replays it), when it exists in the image, and when the incremental does not carry
// it. The summarizer must have listed each of them. It is damage exactly when the page in the image differs from
// what the server had at b, and recovery does not put the page right. So it is let off
//   - where the page that the image takes from an older backup has an LSN of at least the end L of the last record
//     before b that refers to it: a backup copies files while they change, and this copy was made after that record;
//   - where replay from b to the backup's end, which every recovery does, holds a full-page image of the block,
//     makes it anew, or truncates or drops it. After b the first record that refers to a page has its image, for
//     full_page_writes is forced on during a backup.
//
// What is left is a proof where L is known (the page's LSN is older than a record that the log has), and a block at
// or past the limit without any record is one where the image gives it a page that is not zero: it was cut off and
// came back without being logged, so the server has zeros there.
//
// Visibility maps need another rule, as clearing a bit sets no LSN in the map, and in 17.10 and 18.4 no record
// refers to the map's block. The rule of the server holds at every redo point: a bit is set only if the heap page
// says PD_ALL_VISIBLE. Setting both is logged, and so is clearing both. If the image has a bit without the flag,
// and both pages have LSNs below b, the order of events is: the bit was set before b; the flag was set with it or
// before it; it was cleared by the record that the heap page's LSN names, or an older one, and so was the bit, before b.
// The map's page is stale, which is a proof without any log. If the heap page has a newer LSN it is one where
// the log of the backup changes nothing in that block of the map.
//
// # What the LSN of a page says without a log
//
// A page's LSN is the end of a record that refers to it. So a page of a backup with an LSN past the backup's end is
// impossible: a proof. A carried page older than the page in the image before it is one too. A page of the backup
// before, with an LSN past that backup's start, was changed by a record from a to b, and the incremental must carry
// it: where it does not, the summary missed a change, but the page that the image takes may well be the last
// version: a suspicion.
//
// # What is not asked
//
// Free space maps (always stored whole, never trusted by the server), unlogged and temporary relations, files that
// belong to no relation other than by their checksums, and whether the source itself was sound.
package incremental
