package cli

import (
	"fmt"
	"io"
	"runtime"

	"github.com/spf13/cobra"
)

// version is set by the linker (see the Makefile).
var version = "devel"

type versionInfo struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func newVersionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of holdfast",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return a.emit(versionInfo{version, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH})
		},
	}
}

func (v versionInfo) writeText(w io.Writer) error {
	_, err := fmt.Fprintf(w, "holdfast %s (%s, %s)\n", v.Version, v.Go, v.Platform)
	return err
}
