package cli

import (
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/boot"
	"github.com/holdfast-dr/holdfast/internal/restore/partial"
	"github.com/holdfast-dr/holdfast/internal/workspace"
)

// That what was recovered may lack changes is said before everything else about it.
func TestDoubtfulRecoveriesSaySo(t *testing.T) {
	const doubt = "snapshot c may lack changes"
	for _, d := range []string{doubt, ""} {
		whole := recovered{Recovery: &workspace.Recovery{Snapshot: "c", Doubt: d, Files: &restore.Result{To: "there", Notes: []string{"else"}}}}
		part := extracted{Result: &partial.Result{Notes: []string{"else"}, Recovery: &boot.Report{}}, Doubt: d}
		for what, text := range map[string]result{"whole": whole, "part": part} {
			var out strings.Builder
			if err := text.writeText(&out); err != nil {
				t.Fatal(err)
			}
			at, other := strings.Index(out.String(), "DOUBTFUL: "+doubt+"\n"), strings.Index(out.String(), "note: else")
			if (at >= 0) != (d != "") || at > other {
				t.Errorf("%s, %q:\n%s", what, d, &out)
			}
		}
	}
}
