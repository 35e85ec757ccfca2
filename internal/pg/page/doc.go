// Package page knows PostgreSQL's pages: it checks them, and it makes chunks of them small.
//
// Checksum, ReadHeader and Verify judge a page as PostgreSQL does. Codec encodes a chunk of whole pages (the
// repository's grid has 64) as few bytes and gives it back bit by bit. It never needs to understand a page to
// keep it: what does not look like a page is stored as it is.
//
// The codec makes use of what a general compressor must guess, since pages are tables:
//
//	for each page of the chunk
//	    all zero                      → one byte
//	    header                        → a row of words
//	    line pointers                 → implied by the lengths of the items, where they lie one after the other
//	    free space                    → nothing, where it is zero
//	    each item, in the order of the line pointers
//	        columns that are predictable → a row of words
//	        columns of noise             → the noise stream, stored as it is
//	        the rest                     → the body stream
//	    special space                 → a row of words
//	each stream → matches found by S2, literals and tags coded by Huffman, where that wins
//
// A row of words is compared with the row before: a word equal to its prediction costs a zero bit, another one
// the bytes in which it differs. The format is in docs/format/page-codec.md.
//
// Terms: an item is what a line pointer points at, a tuple of a table or of an index; a column is the n-th
// 8-byte word of all items of a chunk, whatever the attributes of the table are.
package page
