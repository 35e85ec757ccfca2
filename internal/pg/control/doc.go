// Package control reads global/pg_control: what a cluster is and the state that it was left in. It knows the
// layouts of versions 13 to 18 on little-endian hosts, checks the file's CRC, and reads a file again that is
// being written at that moment. It never writes one, but says
// what would have to be written (Disarm, AsStandby).
package control
