"""What a reader sees of a figure: its texts, and what overlaps or is cut off."""

import itertools


def caption_of(figure):
    return figure.get_supxlabel().replace("\n", " ")


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def title_of(axes):
    return axes.get_title().replace("\n", " ")


def ticks_of(axes):
    return [text.get_text() for text in axes.get_xticklabels()]


def lines_of(axes, label):
    return [line for line in axes.lines if line.get_label() == label]


def shown_ticks(axis):
    """Labels of the ticks within the limits; an axis keeps some beyond."""
    low, high = sorted(axis.get_view_interval())
    for minor in (False, True):
        places = axis.get_ticklocs(minor=minor)
        labels_there = axis.get_ticklabels(minor=minor)
        yield from (t for at, t in zip(places, labels_there, strict=True) if low <= at <= high)


def require_legible(figure):
    """Every text is 8 points or more, on the page, and clear of every other."""
    figure.canvas.draw()
    texts = [*figure.texts]
    for legend in figure.legends:
        texts += [*legend.get_texts(), legend.get_title()]
    for axes in figure.axes:
        texts += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        texts += [axes.xaxis.get_offset_text(), axes.yaxis.get_offset_text()]
        texts += [*shown_ticks(axes.xaxis), *shown_ticks(axes.yaxis)]
    assert any(text.get_text().startswith("How to read") for text in texts)
    texts = [text for text in texts if text.get_text()]
    assert min(text.get_fontsize() for text in texts) >= 8
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    for name, box in boxes:
        assert box.x0 >= 0, name
        assert box.y0 >= 0, name
        assert box.x1 <= figure.bbox.x1, name
        assert box.y1 <= figure.bbox.y1, name
    for (one, box), (other, other_box) in itertools.combinations(boxes, 2):
        assert not box.overlaps(other_box), (one, other)
