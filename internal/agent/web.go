package agent

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

// listen opens the port, so that one that is taken is told before anything begins.
func (a *agent) listen(ctx context.Context) (net.Listener, error) {
	address := a.cfg.Listen
	if address == "" {
		address = a.config.Agent.Listen
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, dr.Fail("agent: listen on "+address, err, "free the port, or set another one in agent.listen")
	}
	if a.cfg.listening != nil {
		a.cfg.listening(l.Addr())
	}
	return l, nil
}

// serve answers until ctx ends. What it tells is no secret, and it takes no orders.
func (a *agent) serve(ctx context.Context, l net.Listener) {
	server := &http.Server{Handler: newHandler(a.cfg.Version, a.Status), ReadHeaderTimeout: 10 * time.Second, WriteTimeout: time.Minute, MaxHeaderBytes: 1 << 14}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		a.log.Error("metrics and health are no longer served", dr.KeyError, err)
	}
}

func newHandler(version string, status func() Status) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(newRegistry(version, status), promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, status()) })
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		h := healthOf(status())
		code := http.StatusOK
		if !h.Healthy {
			code = http.StatusServiceUnavailable
		}
		answer(w, code, h)
	})
	return mux
}

// health is what /healthz says: the reasons of each system that is not protected as its policy says.
type health struct {
	Healthy bool                `json:"healthy"`
	Reasons map[string][]string `json:"reasons"`
}

func healthOf(s Status) health {
	h := health{Healthy: s.Healthy, Reasons: map[string][]string{}}
	for _, sys := range s.Systems {
		if !sys.Healthy {
			h.Reasons[string(sys.System)] = sys.Reasons
		}
	}
	return h
}

func answer(w http.ResponseWriter, code int, content any) {
	body, err := json.MarshalIndent(content, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(append(body, '\n'))
}
