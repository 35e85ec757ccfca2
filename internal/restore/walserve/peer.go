package walserve

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/holdfast-dr/holdfast/internal/restore/rights"
	"github.com/holdfast-dr/holdfast/internal/sidecar"
)

// A Prefetcher of root answers a user who is not root, and whom a hostile backup may have made do anything. He is
// told from others by the kernel, is believed nothing but the name of a file of the log, and gets it only where he could
// have written it himself; see place.

const (
	maxRequest = 4 << 10 // the longest request that is read
	maxClients = 64      // that are answered at once; a server asks once at a time
)

// listen opens the socket in a folder of the place. A socket's path has at most 107 bytes, and data directories may
// be deep: the directory is named by a descriptor.
func (p *place) listen(folder string) (l net.Listener, err error) {
	d, err := p.open(folder, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	defer d.Close() //nolint:errcheck // only read
	err = rights.As(p.owner, func() error {
		l, err = net.Listen("unix", filepath.Join(fmt.Sprintf("/proc/self/fd/%d", d.Fd()), socketName))
		return err
	})
	if err != nil {
		return nil, err
	}
	// Its path will name nothing once d is closed; the directory is removed as a whole.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	return l, nil
}

// receive reads the request of somebody who may ask.
func (p *Prefetcher) receive(ctx context.Context, conn net.Conn) (q request, ok bool) {
	if !p.in.mayAsk(conn) {
		return q, false
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })() //nolint:errcheck // who says nothing holds up no end
	conn.SetDeadline(time.Now().Add(time.Minute))           //nolint:errcheck // a socket has deadlines
	if json.NewDecoder(io.LimitReader(conn, maxRequest)).Decode(&q) != nil {
		return q, false
	}
	conn.SetDeadline(time.Time{}) //nolint:errcheck // as above
	return q, true
}

// mayAsk tells whether the other end of a connection is root's, the owner's, or this process's user's.
func (p *place) mayAsk(conn net.Conn) bool {
	may := []uint32{0, uint32(os.Geteuid())}
	if p.owner != nil {
		may = append(may, p.owner.Uid)
	}
	peer, err := sidecar.Peer(conn)
	return err == nil && slices.Contains(may, peer)
}
