// Package sftp keeps the objects of a store.Store as files on a server that is reached over SSH, with its SFTP
// subsystem and nothing else: no command runs there. The object data/ab/x is the file data/ab/x below the root.
//
// A write goes through these steps, in this order, and returns after the last one:
//
//	directories   made where missing (each asked for once per process)
//	temporary     a file in .tmp~ below the root, so that it is on the same file system
//	write, sync   of the whole body (fsync@openssh.com)
//	publish       Put: posix-rename@openssh.com over the name; Create: hardlink@openssh.com to the name, which
//	              fails where there is one
//	sync          of the same file again
//
// So a name that can be seen always holds a whole file, whenever the line is cut. A server without posix-rename is
// refused, since nothing can be replaced on it. Where there are no hard links, a creator first makes a claim, a file
// in .tmp~ that is made exclusively, and publishes by renaming while it holds it. The claim of a creator that died
// is void after ten minutes of the server's clock; the one gap is then, between two who find it at one instant.
//
// What "durable" means is up to the server. SFTP cannot sync a directory; the second sync is there because the file
// systems of Linux write a file's new name with it (ext4, XFS, Btrfs). Where the server has no fsync, as most that
// are not OpenSSH, a write that has returned is lost if the server loses power within the half minute or so in which
// its kernel still holds it: keep another replica elsewhere.
//
// A connection is dialled when a call needs one, and another one when the first is busy, up to four; a broken one is
// dropped, the calls on it fail Busy, and the next call dials again. store.Retry repeats, nothing here does. A call
// is given up when nothing came back for a while, or when it takes longer than the slowest line that we put up with
// needs for its size; what is given up takes its connection with it, as SFTP cannot cancel a request.
//
// Keys are found where OpenSSH finds them, but ~/.ssh/config is not read, and a server is believed only with the key
// that known_hosts has for it. Symbolic links below the root are neither listed nor written through; a read follows
// them. The root that Create makes is for its user alone; what is below it has the modes that the server gives.
package sftp
