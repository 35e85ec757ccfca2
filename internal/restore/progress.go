package restore

import (
	"sync/atomic"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

// progress tells a listener of phases and bytes.
type progress struct {
	fn    dr.ProgressFunc
	name  atomic.Pointer[string]
	done  atomic.Int64
	total atomic.Int64
}

func (p *progress) phase(name string) {
	p.name.Store(&name)
	p.done.Store(0)
	p.total.Store(0)
	p.add(0)
}

func (p *progress) add(n int64) {
	done := p.done.Add(n)
	if p.fn != nil {
		p.fn(dr.Progress{Phase: *p.name.Load(), Done: dr.Bytes(done), Total: dr.Bytes(p.total.Load())})
	}
}
