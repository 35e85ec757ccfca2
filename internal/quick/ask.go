package quick

import (
	"strconv"
	"syscall"
)

// askDir sends a request to the sidecar that serves a directory of a data directory, and tells whether its answer begins as it should.
func askDir(dir, request, want string) bool {
	// A socket's path has at most 107 bytes, and data directories may be deep: the directory is named by a descriptor.
	d, err := syscall.Open(dir, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer syscall.Close(d) //nolint:errcheck // only read
	path := "/proc/self/fd/" + strconv.Itoa(d) + "/" + fetchSocket
	return ask(path, request, want, func(int) bool { return true }) // who can make a socket there can make the segment, too
}

// askOwn is askDir for a sidecar with an address that anybody could have taken: it must be this user's.
func askOwn(address, request, want string) bool {
	return ask("@"+address, request, want, func(s int) bool {
		peer, err := syscall.GetsockoptUcred(s, syscall.SOL_SOCKET, syscall.SO_PEERCRED)
		return err == nil && int(peer.Uid) == syscall.Geteuid()
	})
}

// fetchSocket is where the prefetcher of a pg_wal is asked; a test holds it and walserve's names together.
const fetchSocket = "holdfast.prefetch/socket"

// ask sends a request, and tells whether the answer begins with want. The answer may take long: a store may be slow. To be
// connected may not: until then nobody knows whose socket it is, and one that accepts nothing would hold up its clients.
func ask(address, request, want string, trust func(socket int) bool) bool {
	s, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer syscall.Close(s) //nolint:errcheck // the answer is in
	if syscall.Connect(s, &syscall.SockaddrUnix{Name: address}) != nil || !trust(s) || syscall.SetNonblock(s, false) != nil || !send(s, request) {
		return false
	}
	answer := make([]byte, 0, 512)
	for len(answer) < len(want) {
		n, err := syscall.Read(s, answer[len(answer):cap(answer)])
		if err == syscall.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return false
		}
		answer = answer[:len(answer)+n]
	}
	return begins(string(answer), want)
}

func send(s int, request string) bool {
	for b := []byte(request + "\n"); len(b) > 0; {
		n, err := syscall.Write(s, b)
		if err != nil && err != syscall.EINTR {
			return false
		}
		b = b[max(n, 0):]
	}
	return true
}
