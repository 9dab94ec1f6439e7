"""From a rectified page to leads in mV: rows are read column by column, then assembled by the layout."""
