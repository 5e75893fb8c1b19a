//! The plot of the report: throughput and p99 by number of clients. Owns its appearance; never measures, and
//! shows only figures that are also in the tables.
//!
//! The page may be light or dark, which an embedded image cannot detect. The background is therefore
//! transparent, and all colours have medium brightness.

use std::ops::Range;
use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::combinators::WithKeyPoints;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;

use crate::contenders::Contender;
use crate::metrics::{MetricsSection, ParsedMetric};
use crate::plan::{PlanRow, Work};
use crate::summary::Results;

/// Width and height in pixels.
const SIZE: (u32, u32) = (1000, 420);
/// Height of the legend.
const LEGEND_HEIGHT: u32 = 34;
/// Left end of the legend …
const LEGEND_LEFT: i32 = 70;
/// … and the distance of its entries, if they fit.
const LEGEND_STEP: i32 = 130;
/// Length of the line in a legend entry.
const LEGEND_LINE: i32 = 24;
/// Axes and text.
const GREY: RGBColor = RGBColor(128, 128, 128);
/// Opacity of the grid, which is drawn in [`GREY`].
const GRID_OPACITY: f64 = 0.25;
/// Radius of a point.
const POINT: u32 = 4;
/// Upper limit of a linear axis, relative to the highest point.
const HEADROOM: f64 = 1.08;
/// Margin factor at both ends of a logarithmic axis.
const ROOM: f64 = 1.6;

/// A contender's line: numbers of clients and figures.
type PlotLine = (Contender, Vec<(f64, f64)>);
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws the sweep into `file`. False if none of it was measured.
pub(crate) fn draw(file: &Path, rows: &[PlanRow], results: &Results) -> Result<bool> {
    let [throughput, latency] =
        [ParsedMetric::Throughput, ParsedMetric::LatencyP99].map(|metric| lines(rows, results, metric));
    let (Some(clients), Some(tps), Some(ms)) = (xs(&throughput), ys(&throughput), ys(&latency)) else {
        return Ok(false);
    };
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    let (legend, panels) = root.split_vertically(LEGEND_HEIGHT);
    let (left, right) = panels.split_horizontally(SIZE.0 / 2);
    let drawn = draw_legend(&legend, &throughput)
        .and_then(|()| {
            panel(&left, &throughput, &clients, 0.0..tps.end * HEADROOM, "Transactions per second", false)
        })
        .and_then(|()| {
            let range = ms.start / ROOM..ms.end * ROOM;
            let axis = range.clone().log_scale().with_key_points(round_figures(&range));
            panel(&right, &latency, &clients, axis, "Latency: p99, ms", true)
        })
        .and_then(|()| Ok(root.present()?));
    drawn.map_err(|error| anyhow!("drawing {}: {error}", file.display()))?;
    Ok(true)
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn lines(rows: &[PlanRow], results: &Results, metric: ParsedMetric) -> Vec<PlotLine> {
    let of = |contender| {
        let points = rows.iter().enumerate().filter_map(|(index, row)| match row.work {
            Work::Pgbench(_, clients) if row.section == MetricsSection::Sweep => {
                Some((f64::from(clients), results.summary(index, contender, metric)?.median))
            }
            _ => None,
        });
        (contender, points.collect::<Vec<_>>())
    };
    Contender::ALL.into_iter().map(of).filter(|(_, points)| !points.is_empty()).collect()
}

/// All numbers of clients, in ascending order.
fn xs(lines: &[PlotLine]) -> Option<Vec<f64>> {
    let mut all: Vec<f64> = lines.iter().flat_map(|(_, points)| points.iter().map(|&(x, _)| x)).collect();
    all.sort_by(f64::total_cmp);
    all.dedup();
    (all.len() > 1).then_some(all)
}

/// Smallest and largest figure.
fn ys(lines: &[PlotLine]) -> Option<Range<f64>> {
    let all = || lines.iter().flat_map(|(_, points)| points.iter().map(|&(_, y)| y));
    Some(all().min_by(f64::total_cmp)?..all().max_by(f64::total_cmp)?)
}

fn draw_legend(area: &Area<'_>, lines: &[PlotLine]) -> Drawn {
    let middle = LEGEND_HEIGHT as i32 / 2;
    let step = LEGEND_STEP.min((SIZE.0 as i32 - LEGEND_LEFT) / lines.len().max(1) as i32);
    for (index, (contender, _)) in lines.iter().enumerate() {
        let x = LEGEND_LEFT + step * index as i32;
        let colour = colour(*contender);
        area.draw(&PathElement::new([(x, middle), (x + LEGEND_LINE, middle)], colour.stroke_width(2)))?;
        area.draw(&Circle::new((x + LEGEND_LINE / 2, middle), POINT, colour.filled()))?;
        let text = ("sans-serif", 15).into_font().color(&GREY);
        area.draw(&Text::new(contender.name(), (x + LEGEND_LINE + 8, middle - 8), text))?;
    }
    Ok(())
}

/// A logarithmic axis labelled with the measured numbers of clients.
fn x_axis(clients: &[f64]) -> WithKeyPoints<LogCoord<f64>> {
    let (first, last) = (clients[0], clients[clients.len() - 1]);
    (first * 0.85..last * 1.15).log_scale().with_key_points(clients.to_vec())
}

/// Draws one panel: title, lines and axes.
fn panel<Y, C>(area: &Area<'_>, lines: &[PlotLine], clients: &[f64], y: Y, title: &str, digits: bool) -> Drawn
where
    Y: AsRangedCoord<CoordDescType = C, Value = f64>,
    C: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let font = |size| ("sans-serif", size).into_font().color(&GREY);
    let mut chart = ChartBuilder::on(area)
        .caption(title, font(17))
        .margin(10)
        .x_label_area_size(44)
        .y_label_area_size(60)
        .build_cartesian_2d(x_axis(clients), y)?;
    chart
        .configure_mesh()
        .axis_style(GREY)
        .bold_line_style(GREY.mix(GRID_OPACITY))
        .light_line_style(TRANSPARENT)
        .label_style(font(14))
        .axis_desc_style(font(15))
        .x_desc("clients")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| if digits { format!("{y}") } else { format!("{y:.0}") })
        .draw()?;
    for (contender, points) in lines {
        let style = colour(*contender);
        let line = LineSeries::new(points.iter().copied(), style.filled().stroke_width(2));
        chart.draw_series(line.point_size(POINT))?;
    }
    Ok(())
}

/// The values 1, 2, 5, 10 and so on that are in `range`.
fn round_figures(range: &Range<f64>) -> Vec<f64> {
    let decades = -3..=5;
    let all = decades.flat_map(|exponent| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(exponent)));
    all.filter(|figure| range.contains(figure)).collect()
}

fn colour(contender: Contender) -> RGBColor {
    match contender {
        Contender::Iambouncer => RGBColor(47, 129, 247),
        Contender::Epoll => RGBColor(110, 170, 230),
        Contender::PgBouncer => RGBColor(224, 117, 45),
        Contender::HaProxy => RGBColor(46, 160, 90),
        Contender::Direct => RGBColor(162, 89, 217),
        Contender::PgCat => RGBColor(205, 60, 70),
        Contender::PgDog => RGBColor(214, 73, 143),
        Contender::PgDoorman => RGBColor(23, 162, 162),
        Contender::Odyssey => RGBColor(163, 150, 32),
        Contender::MutexPool => RGBColor(128, 110, 90),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axis_labels_are_round_figures() {
        assert_eq!(round_figures(&(0.4..12.0)), [0.5, 1.0, 2.0, 5.0, 10.0]);
    }

    #[test]
    fn a_line_needs_two_numbers_of_clients() {
        let line = |points: &[(f64, f64)]| vec![(Contender::Direct, points.to_vec())];
        assert_eq!(xs(&line(&[(1.0, 5.0)])), None);
        assert_eq!(xs(&line(&[(4.0, 5.0), (1.0, 6.0)])), Some(vec![1.0, 4.0]));
        assert_eq!(ys(&line(&[(4.0, 5.0), (1.0, 6.0)])), Some(5.0..6.0));
    }
}
