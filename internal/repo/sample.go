package repo

import (
	"context"
	"math/rand/v2"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

// Sample returns an entry of the tree at root that chance picks: at each node one of its children, each as likely. An
// entry whose neighbours are few is picked more often than others. Of an empty tree it returns nil.
func (rd *Reader) Sample(ctx context.Context, root seal.ChunkID, r *rand.Rand) (string, *Entry, error) {
	for id := root; ; {
		n, err := rd.node(ctx, id)
		if err != nil || len(n.keys) == 0 {
			return "", nil, err
		}
		i := r.IntN(len(n.keys))
		if n.level == 0 {
			e, err := parseEntry(n.values[i])
			return n.keys[i], e, err
		}
		id = seal.ChunkID(n.values[i])
	}
}
