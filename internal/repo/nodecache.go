package repo

import (
	"sync"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

// nodeCache keeps nodes of trees for readers that come back to them: each costs an answer of the store. Nodes do not change.
type nodeCache struct {
	mu    sync.Mutex // guards what follows
	room  int        // bytes that may be kept; 0: nothing is
	used  int
	nodes map[seal.ChunkID]*node
}

// KeepTrees makes the repository keep nodes of trees that it reads, up to so many bytes as they are stored before compression; in
// memory they take about twice as many.
func (r *Repository) KeepTrees(bytes int) {
	c := &r.nodes
	c.mu.Lock()
	defer c.mu.Unlock()
	c.room = bytes
	if c.nodes == nil {
		c.nodes = map[seal.ChunkID]*node{}
	}
}

func (c *nodeCache) get(id seal.ChunkID) *node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[id]
}

// put keeps a node of so many bytes where there is room for it. What is there stays: a walk through a large tree would drive out
// all that it comes back to.
func (c *nodeCache) put(id seal.ChunkID, n *node, bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.nodes[id] != nil || c.used+bytes > c.room {
		return
	}
	c.nodes[id] = n
	c.used += bytes
}
