// The viewer's configuration and what LiverLoop adds to it; the viewer reads it before it starts.
(function () {
  const root = __ROOT__; // of our proxy to the PACS
  const colors = __COLORS__; // [red, green, blue] of our classes by their names
  const panelMode = '@ohif/mode-monai-label';
  const brushMode = '@ohif/mode-segmentation';

  // MONAI Label's panel takes its server's address from this cookie; without one it guesses port 8000.
  document.cookie = 'MONAILABEL_SERVER_URL=' + escape(window.location.origin + '/') + '; path=/ohif; samesite=strict';

  // The panel colors classes by a list of its own and makes up a color for a name that isn't in there.
  function paint() {
    const { segmentation } = window.cornerstoneTools;
    for (const { segmentationId, segments } of segmentation.state.getSegmentations()) {
      for (const viewportId of segmentation.state.getViewportIdsWithSegmentation(segmentationId)) {
        for (const { segmentIndex, label } of Object.values(segments).filter(Boolean)) {
          const wanted = Object.hasOwn(colors, label) && [...colors[label], 255];
          const now = wanted && segmentation.config.color.getSegmentIndexColor(viewportId, segmentationId, segmentIndex);
          if (now && wanted.some((value, index) => value !== now[index])) {
            segmentation.config.color.setSegmentIndexColor(viewportId, segmentationId, segmentIndex, wanted);
          }
        }
      }
    }
  }

  function changes() {
    const { Events } = window.cornerstoneTools.Enums;
    // A new color is told as an added representation.
    return [Events.SEGMENTATION_REPRESENTATION_ADDED, Events.SEGMENTATION_REPRESENTATION_MODIFIED];
  }

  // "Export DICOM SEG" in the panel of segmentations does not say where to; nobody would be told how it went either.
  function mendStoring({ commandsManager, extensionManager, servicesManager }) {
    const { uiNotificationService } = servicesManager.services;
    const store = commandsManager.getCommand('storeSegmentation', 'SEGMENTATION');
    if (!store || store.mended) {
      return;
    }
    const tell = (type, message) => uiNotificationService.show({ title: 'LiverLoop', message, type, duration: 8000 });
    async function commandFn(options) {
      try {
        const [dataSource] = extensionManager.getActiveDataSource();
        const stored = await store.commandFn({ dataSource, ...options });
        if (stored) {
          tell('success', 'The segmentation is in the PACS now');
        }
        return stored;
      } catch (error) {
        const status = error?.request?.status ?? error?.status;
        tell('error', `The segmentation is NOT stored: ${status ? `the PACS answers ${status}` : error.message}`);
      }
    }
    commandsManager.registerCommand('SEGMENTATION', 'storeSegmentation', { ...store, commandFn, mended: true });
  }

  // The mode of MONAI Label with the brushes of the segmentation mode, and the panel that stores SEGs in the PACS.
  async function modeFactory({ modeConfiguration, loadModules }) {
    const modules = await loadModules([panelMode, brushMode]);
    const [mode, brushes] = modules.map((one) => one.modeFactory({ modeConfiguration }));
    const painted = () => setTimeout(paint); // after whoever changes something has done so

    return {
      ...mode,
      onModeEnter(context) {
        mode.onModeEnter(context);
        const { services } = context.servicesManager;
        // Only the buttons of the other mode: tools of the same names are there already.
        brushes.onModeEnter({
          ...context,
          servicesManager: {
            services: {
              ...services,
              toolGroupService: { createToolGroupAndAddTools() {} },
              toolbarService: { addButtons: (all) => services.toolbarService.addButtons(all), createButtonSection() {} },
            },
          },
        });
        mendStoring(context);
        changes().forEach((change) => window.cornerstone.eventTarget.addEventListener(change, painted));
      },
      onModeExit(context) {
        changes().forEach((change) => window.cornerstone.eventTarget.removeEventListener(change, painted));
        mode.onModeExit(context);
      },
      routes: mode.routes.map((route) => ({
        ...route,
        layoutTemplate(context) {
          const layout = route.layoutTemplate(context);
          // On the left, since the panel on the right would forget its connection when another one takes its place.
          layout.props.leftPanels.push('@ohif/extension-cornerstone.panelModule.panelSegmentationWithTools');
          return layout;
        },
      })),
    };
  }

  window.config = {
    routerBasename: '/ohif/',
    showStudyList: true,
    extensions: [],
    modes: [{ id: panelMode, modeFactory }], // in place of the one of this name
    showWarningMessageForCrossOrigin: true,
    showCPUFallbackMessage: true,
    showLoadingIndicator: true,
    strictZSpacingForVolumeViewport: true,
    useSharedArrayBuffer: 'FALSE',
    defaultDataSourceName: 'dicomweb',
    dataSources: [
      {
        namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
        sourceName: 'dicomweb',
        configuration: {
          friendlyName: 'PACS',
          name: 'PACS',
          qidoRoot: root,
          wadoRoot: root, // where it stores, too
          qidoSupportsIncludeField: true,
          supportsReject: false,
          imageRendering: 'wadors',
          thumbnailRendering: 'wadors',
          enableStudyLazyLoad: true,
          supportsFuzzyMatching: false,
          supportsWildcard: true,
          dicomUploadEnabled: false,
          bulkDataURI: { enabled: true },
        },
      },
    ],
  };
})();
